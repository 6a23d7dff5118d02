"""Compiles, inside the image, exactly the modules that the trainer imports.

Files in an image get one normalised time, which would make ordinary byte code look stale: hash-based files that are
never checked load anyway.
"""

import importlib
import py_compile
import sys

MODULES = (
    "kaito_trainer.__main__",
    "kaito_trainer.training",
    "kaito_trainer.model",
    "kaito_trainer.adapter",
    "kaito_trainer.answering",
    "yaml",
    "torch",
    "transformers",
    "transformers.models.llama.modeling_llama",
    "transformers.models.mistral.modeling_mistral",
    "transformers.models.phi3.modeling_phi3",
    "transformers.models.qwen2.modeling_qwen2",
    "transformers.trainer",
    "peft",
    "trl",
    "trl.trainer.sft_trainer",
    "datasets",
    "bitsandbytes",
    "pyarrow.parquet",
    "gguf",
)

for name in MODULES:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        # A model family that this version of transformers names differently costs start-up time, nothing else; one of
        # ours that is missing is a broken image.
        if name.startswith("transformers.models."):
            print(f"byte code: {error}", file=sys.stderr)
        else:
            raise

compiled = 0
for module in list(sys.modules.values()):
    source = getattr(module, "__file__", None)
    if source and source.endswith(".py") and source.startswith(("/usr/lib/", "/opt/")):
        py_compile.compile(source, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
        compiled += 1
print(f"byte code: {compiled} modules", file=sys.stderr)
