"""Train one LoRA adapter on several tasks, project conflicting task gradients apart, and record both.

Importing this package imports no torch: `ortho_lora.schema` and `ortho_lora.config` serve programs that only look.
"""

__version__ = "0.1.0"
