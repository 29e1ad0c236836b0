"""The identity of a run that nobody trained."""

from ortho_lora.record.schema import RunInfo, TaskInfo

TASK = TaskInfo(
    name="a", kind="classification", metrics=("accuracy",), train_examples=1, evaluation_examples={}, majority={}
)
INFO = RunInfo(
    run_id="x",
    created=0.0,
    method="joint",
    rule="sum",
    scope="block",
    seed=0,
    gradient_mode="fused",
    config={},
    tasks=(TASK,),
    modules=(),
    versions={},
    command=[],
)
