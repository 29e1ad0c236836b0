"""What README and docs/studies.md say of studies is so."""

import re
from pathlib import Path

from ortho_lora.study import plan
from ortho_lora.study.file import PRESETS, StudyFile, Tuning, read_file

ROOT = Path(__file__).resolve().parents[2]


def test_the_study_shown_can_be_trained(tmp_path):
    (shown,) = re.findall(r"```yaml\n(# study.yaml.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (tmp_path / "study.yaml").write_text(shown)
    file, _ = read_file(tmp_path / "study.yaml")
    assert len(plan.expected(file).configs) == 4 * 2 * (2 + 2)
    assert not file.warnings


def test_every_entry_and_every_preset_is_told():
    said = (ROOT / "docs" / "studies.md").read_text()
    entries = [name for name in StudyFile.model_fields if name != "tuning"]
    entries += [f"tuning.{name}" for name in Tuning.model_fields]
    assert all(f"| `{name}` |" in said for name in [*entries, *PRESETS])
