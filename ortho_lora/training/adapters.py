"""The adapters of a training: which tasks share one, who watches it, and where it is left."""

import shutil
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from peft import PeftModel
from safetensors.torch import save_file

from ortho_lora.surgery.surgeon import OrthoLoRA
from ortho_lora.tasks.data import TaskData
from ortho_lora.training.batches import seed_of
from ortho_lora.training.checkpoint import replace_directory
from ortho_lora.training.config import Config
from ortho_lora.training.model import MultiTaskModel

LONGEST = 120
"""Letters in the name of an adapter's directory."""


@dataclass(frozen=True)
class Group:
    """Tasks that share an adapter: all of them, those of a group, or with method `single` each task alone."""

    adapter: str
    tasks: list[int]
    surgeon: OrthoLoRA


def shared(config: Config) -> dict[str, tuple[int, ...]]:
    """By the name of each adapter: its tasks. Several are named by the place of their first task."""
    if len(groups := config.sharing) == 1 and config.method != "single":
        return {"default": groups[0]}
    return {f"task{group[0]}": group for group in groups}


def watch(
    encoder: PeftModel,
    members: Mapping[str, Sequence[int]],
    tasks: Sequence[TaskData],
    config: Config,
    whole: Container[str],
) -> list[Group]:
    """Give each adapter a surgeon.

    Args:
        encoder: holds the adapters.
        members: of `shared`.
        tasks: of the training.
        config: of the training.
        whole: of `layers_past_examples`.
    """
    method, groups = config.effective, []
    for adapter, of in members.items():
        encoder.set_adapter(adapter)  # only the active one can be watched
        surgeon = OrthoLoRA(
            encoder,
            [tasks[t].name for t in of],
            rule=method.rule,
            scope=method.scope,
            branches=method.branches,
            order=config.order,
            seed=seed_of(config.seed, "order"),
            loss_weights={tasks[t].name: config.tasks[t].loss_weight for t in of},
            adapter=adapter,
            whole=whole,
            on_nonfinite=None,  # a training looks by itself, for the heads' sake
        )
        groups.append(Group(adapter, list(of), surgeon))
    return groups


def in_turn(encoder: PeftModel, groups: Sequence[Group]) -> Iterator[Group]:
    """The groups, each while its adapter is active."""
    for group in groups:
        if len(groups) > 1:
            encoder.set_adapter(group.adapter)
        yield group


def save(
    run_dir: Path, encoder: PeftModel, groups: Sequence[Group], model: MultiTaskModel, tasks: Sequence[TaskData]
) -> None:
    """Write the adapters and the heads into `adapter/`, complete or not at all.

    One that all tasks share lies there itself, each of several in a directory with the names of its tasks.
    """
    temporary = run_dir / ".adapter"
    shutil.rmtree(temporary, ignore_errors=True)
    for group in groups:
        encoder.save_pretrained(str(temporary), selected_adapters=[group.adapter])
        if group.adapter != "default":
            (temporary / group.adapter).rename(temporary / _directory([tasks[t].name for t in group.tasks]))
    heads = {
        f"{tasks[owner].name}.{name}": value.detach().cpu().contiguous()
        for owner in sorted(set(model.owners))
        for name, value in model.heads[owner].named_parameters()
    }
    save_file(heads, temporary / "heads.safetensors")
    replace_directory(temporary, run_dir / "adapter")


def _directory(names: Sequence[str]) -> str:
    """Like `trec+tweets`, or of many `trec+7-more`: each task is of one group, so no two are alike."""
    whole = "+".join(names)
    return whole if len(whole) <= LONGEST else f"{names[0]}+{len(names) - 1}-more"
