"""The file of a study: what is to be compared, under which conditions, and how settings are chosen."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ortho_lora.errors import OrthoLoraError, nearest
from ortho_lora.record.study import Advice, Settings
from ortho_lora.surgery.methods import METHODS
from ortho_lora.tasks.specs import Name
from ortho_lora.training import yaml_text

PRESETS = {path.stem: path for path in sorted((Path(__file__).parent / "presets").glob("*.yaml"))}
"""Files of studies that come with the program, by name."""

Seeds = Annotated[tuple[Annotated[int, Field(ge=0, lt=2**31)], ...], Field(min_length=1)]
Candidates = tuple[Settings, ...]

_OF_THE_STUDY = {"seed": "seeds", "method": "methods", "selection_share": "selection_share"}
_FLOAT = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


class Tuning(_Strict):
    """Candidates that settings are chosen from, on the `selection` split."""

    seeds: Seeds | None = None
    """Of the runs that candidates are compared by; null: the first of the study's seeds."""
    candidates: Candidates = ()
    """For every method but those of `methods`."""
    methods: dict[str, Candidates] = {}
    """For methods with candidates of their own."""


class StudyFile(_Strict):
    """What a study compares. Settings are those of `train`, and `loss_weights`, task name to weight."""

    title: str = ""
    """The question, in words."""
    base: Settings = {}
    """Settings of every run."""
    methods: dict[Name, Settings] = Field(min_length=1)
    """A list of methods of `train`, or of names of their own with settings: `- wide: {method: joint, rank: 32}`."""
    seeds: Seeds = (0, 1, 2)
    """Every method is trained with each."""
    axes: dict[Name, dict[str, Settings]] = {}
    """Conditions: values of a setting, `rank: [4, 8]`, or labels with settings, `size: {small: {rank: 4}}`."""
    tuning: Tuning = Tuning()
    """How settings are chosen; without it, there is no choice."""
    pairs: tuple[str, ...] = ()
    """Methods that are also trained on every pair of tasks alone."""
    selection_share: float | None = Field(None, ge=0, lt=1)
    """Share of the validation data that settings are chosen on; null: 0.5 where there is a choice, else 0."""
    advice: Advice | None = None
    """What `--from-advice` writes of the advice that it tries."""

    @field_validator("methods", mode="before")
    @classmethod
    def _name_methods(cls, given: Any) -> Any:
        """Of each method its settings, with that of `train` among them."""
        named = dict(_named(given))
        for name, settings in named.items():
            if name not in METHODS and isinstance(settings, dict) and "method" not in settings:
                raise ValueError(
                    f"{name!r} is no method of `train` ({', '.join(METHODS)}){nearest(str(name), METHODS)}; a method"
                    " under another name says which it is, as in `- wide: {method: joint, rank: 32}`"
                )
        return {name: {"method": name} | of if isinstance(of, dict) else of for name, of in named.items()}

    @field_validator("axes", mode="before")
    @classmethod
    def _label_values(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {axis: _labelled(str(axis), values) for axis, values in given.items()}

    @field_validator("seeds")
    @classmethod
    def _once(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds):
            raise ValueError("expected each seed once")
        return seeds

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for where, given in {"pairs": self.pairs, "tuning.methods": tuple(self.tuning.methods)}.items():
            for name in given:
                if name not in self.methods:
                    raise ValueError(f"{where}: {name!r} is none of the study's methods{nearest(name, self.methods)}")
        for where, settings in self._layers():
            for name, instead in _OF_THE_STUDY.items():
                if name in settings and not (name == "method" and where.startswith("methods.")):
                    raise ValueError(f"{where}: {name} is set by the study's {instead!r}, not here")
        axes = [(axis, {name for settings in of.values() for name in settings}) for axis, of in self.axes.items()]
        for index, (axis, names) in enumerate(axes):
            for other, others in axes[:index]:
                if names & others:
                    raise ValueError(f"axes: {min(names & others)} is set by both {other!r} and {axis!r}")
        conditions = set().union(*(names for _, names in axes))
        for method, settings in self.methods.items():
            candidates = self.candidates(method)
            tuned = {name for candidate in candidates for name in candidate}
            if taken := tuned & (conditions | set(settings)):
                raise ValueError(
                    f"tuning: a candidate of {method!r} sets {min(taken)}, which the method or an axis sets already"
                )
            if any(candidate in candidates[:index] for index, candidate in enumerate(candidates)):
                raise ValueError(f"tuning: a candidate of {method!r} is given twice")
        if self.has_choice and self.selection_share == 0:
            raise ValueError("selection_share: 0 leaves no data to choose settings on; expected more, as in 0.5")
        return self

    def _layers(self) -> Iterator[tuple[str, Settings]]:
        """All settings, and where they stand."""
        yield "base", self.base
        yield from ((f"methods.{name}", settings) for name, settings in self.methods.items())
        for axis, labels in self.axes.items():
            yield from ((f"axes.{axis}.{label}", settings) for label, settings in labels.items())
        yield from (("tuning", candidate) for method in self.methods for candidate in self.candidates(method))

    def candidates(self, method: str) -> Candidates:
        """What a method's settings are chosen from; one of them: there is nothing to choose."""
        return self.tuning.methods.get(method, self.tuning.candidates) or ({},)

    @property
    def has_choice(self) -> bool:
        return any(len(self.candidates(method)) > 1 for method in self.methods)

    @property
    def tuning_seeds(self) -> tuple[int, ...]:
        return self.tuning.seeds or self.seeds[:1]

    @property
    def share(self) -> float:
        """Of the validation data, to choose on."""
        return self.selection_share if self.selection_share is not None else 0.5 * self.has_choice

    @property
    def warnings(self) -> list[str]:
        """What a reader of the results should know beforehand."""
        found = []
        budgets = {method: len(self.candidates(method)) for method in self.methods}
        if len(set(budgets.values())) > 1:
            listed = ", ".join(f"{method} {count}" for method, count in budgets.items())
            found.append(f"the methods are not tuned alike: candidates are {listed}")
        trained = {str(settings["method"]) for settings in self.methods.values()}
        if missing := [name for name in ("joint", "single") if trained - {"joint", "single"} and name not in trained]:
            found.append(f"without {' and '.join(missing)} among the methods, no gap recovery can be told")
        return found


def find_file(given: str) -> Path:
    """The file of that path, or of the preset of that name.

    Raises:
        OrthoLoraError: there is neither.
    """
    if Path(given).is_file():
        return Path(given)
    if given not in PRESETS:
        raise OrthoLoraError(
            f"study {given}: no such file, and no preset of that name ({', '.join(PRESETS)}){nearest(given, PRESETS)}."
        )
    return PRESETS[given]


def read_file(path: Path) -> tuple[StudyFile, Settings]:
    """Read the file of a study (YAML); return it, and what stands in it. Raises as `read_text`."""
    return read_text(text_of(path), path)


def text_of(path: Path) -> str:
    """What stands in the file of a study; OrthoLoraError where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OrthoLoraError(f"study {path}: cannot be read ({error}).") from error


def read_text(text: str, path: Path) -> tuple[StudyFile, Settings]:
    """The same of the text that stands in it, or is to.

    Raises:
        OrthoLoraError: it cannot be read, or a key or value is refused; the sentence names the nearest valid one.
    """
    try:
        given = yaml_text.load(text)
    except yaml.YAMLError as error:
        raise OrthoLoraError(f"study {path}: not valid YAML ({' '.join(str(error).split())}).") from error
    if not isinstance(given, dict):
        raise OrthoLoraError(f"study {path}: expected `methods:`, `base:` and so on, found {given!r}.")
    given = _with_floats(given)
    try:
        return StudyFile.model_validate(given), given
    except ValidationError as error:
        sentences = dict.fromkeys(_sentence(dict(detail)) for detail in error.errors())
        raise OrthoLoraError("\n".join(f"study {path}: {sentence}" for sentence in sentences)) from error


def _named(given: Any) -> Iterator[tuple[Any, Any]]:
    """The entries of `methods`, each a name or a mapping of names to settings."""
    if not isinstance(given, list):
        raise ValueError("expected a list of methods")
    seen = set()
    for entry in given:
        for name, settings in entry.items() if isinstance(entry, dict) else [(entry, {})]:
            if not isinstance(name, str):
                raise ValueError(f"{name!r} is no name")
            if name in seen:
                raise ValueError(f"{name!r} is given twice: give each method a name of its own")
            seen.add(name)
            yield name, settings or {}


def _labelled(axis: str, values: Any) -> Any:
    """The settings of each value of an axis, by label."""
    if isinstance(values, dict):
        return {_label(label): settings for label, settings in values.items()}
    if not isinstance(values, list) or not values:
        raise ValueError(f"{axis}: expected a list of values, or labels with settings")
    labelled = {_label(value): {axis: value} for value in values}
    if len(labelled) < len(values):
        raise ValueError(f"{axis}: a value is given twice")
    return labelled


def _label(value: Any) -> str:
    """A value as YAML writes it on a line."""
    if isinstance(value, str | float):
        return value if isinstance(value, str) else f"{value:g}"
    return yaml.safe_dump(value, default_flow_style=True, width=200).splitlines()[0]


def _with_floats(value: Any) -> Any:
    """With numbers like 1e-3, which YAML 1.1 takes for text, as numbers."""
    if isinstance(value, dict):
        return {key: _with_floats(of) for key, of in value.items()}
    if isinstance(value, list):
        return [_with_floats(of) for of in value]
    return float(value) if isinstance(value, str) and _FLOAT.fullmatch(value) else value


def _sentence(detail: dict[str, Any]) -> str:
    where = ".".join(str(part) for part in detail["loc"] if part != "[key]")
    if detail["type"] == "missing":
        return f"{where}: is missing."
    if detail["type"] == "extra_forbidden":
        kind = StudyFile if len(detail["loc"]) == 1 else Tuning
        return f"{where}: there is no such entry{nearest(str(detail['loc'][-1]), kind.model_fields)}."
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "value_error":
        return f"{where}: {message}." if where else f"{message}."
    return f"{where}: {detail['input']!r} given; {message[0].lower()}{message[1:]}."
