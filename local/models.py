"""What the vLLM engine of a local cluster is told, and by what names requests may call its models.

Pure; reads only what decides the names, and leaves every other option to vLLM.
"""

import argparse
import json
import shlex
from pathlib import PurePath

DEFAULT_MODEL = "openai/gpt-oss-20b"
"""What the engine serves when it is told no model."""

_CONFIG_SUFFIXES = (".yaml", ".yml")


def join_engine_args(model: str | None, engine_args: str) -> str:
    """One command line for vLLM; a YAML file, which may be named in place of flags, becomes `--config`."""
    if model is None:
        return engine_args
    flags = engine_args.strip()
    if _is_file(flags):
        flags = f"--config {shlex.quote(flags)}"
    return f"--model {shlex.quote(model)} {flags}".rstrip()


def name_models(engine_args: str) -> list[str] | None:
    """The names of the model and of its adapters, the model's own first; None if a file tells them.

    `openai/gpt-oss-20b` is also `gpt-oss-20b`, and a folder is called by its name. Raises ValueError.
    """
    told = _read(shlex.split(engine_args))
    if told.model is None and (_is_file(engine_args.strip()) or told.config is not None):
        return None
    model = told.model or DEFAULT_MODEL
    short = PurePath(model).name
    names = [short] if PurePath(model).is_absolute() or model.startswith(".") else [short, model]
    return list(dict.fromkeys([*names, *map(_name_adapter, told.lora_modules)]))


def _read(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--model")
    parser.add_argument("--config")
    parser.add_argument("--lora-modules", "--lora_modules", nargs="+", default=[])
    try:
        return parser.parse_known_args(words)[0]
    except argparse.ArgumentError as error:
        raise ValueError(str(error)) from None


def _name_adapter(module: str) -> str:
    """`name=path`, or JSON with both, as vLLM takes it."""
    if not module.startswith("{"):
        return module.partition("=")[0]
    match json.loads(module):
        case {"name": str(name)}:
            return name
        case _:
            raise ValueError(f"an adapter without a name: {module}")


def _is_file(text: str) -> bool:
    return PurePath(text).suffix in _CONFIG_SUFFIXES and " " not in text
