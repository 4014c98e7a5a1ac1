"""Any method of the `peft` library, through the same trainer: one client at a time.

The methods with a batched form (`fedloom.tuning.adapters`) train a whole cohort at once and should
be preferred where they will do.
"""

import dataclasses
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fedloom.core.component import Option
from fedloom.core.errors import ConfigError, ModelError, nearest
from fedloom.tuning.base import CohortModel, Task
from fedloom.tuning.peft_format import task_type_of

__all__ = ["AnyPeft"]

FROM_TASK = ("peft_type", "task_type", "inference_mode", "base_model_name_or_path", "auto_mapping")
NEEDS_MORE = ("POLY", "XLORA")
PROMPTS = ("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING")


class AnyPeft:
    """Any method of the peft library (VERA, LOHA, PROMPT_TUNING, ...), one client at a time.

    Args:
        method: as PEFT calls it.
        options: what PEFT's configuration of the method takes, such as ``r`` or
            ``target_modules``.
    """

    def __init__(self, method: str, **options: Option) -> None:
        self.method = method.upper()
        self._options = {key: _as_list(value) for key, value in options.items()}

    def build(
        self,
        folder: Path,
        task: Task,
        *,
        dtype: torch.dtype,
        device: torch.device,
        four_bit: bool = False,
    ) -> CohortModel:
        """Load the model in a folder, in 4 bits or as it is, and attach the method to it.

        Raises:
            ModelError: peft or transformers is not installed, or the folder cannot be read.
            ConfigError: there is no such method or option, or it does not fit the model or task.
        """
        from fedloom.tuning.bridged_model import BridgedModel

        self._config(task, ())  # a mistake is told before a large model is read
        return BridgedModel(folder, self, task, dtype=dtype, device=device, four_bit=four_bit)

    def wrap(self, module: nn.Module, task: Task, heads: Sequence[str]) -> Any:
        """PEFT's model around a `transformers` model, which is changed in place.

        Args:
            module: the frozen model.
            task: what it is trained for.
            heads: module paths of heads that are trained in full.

        Raises:
            ConfigError: PEFT refuses the model.
        """
        import peft

        config = self._config(task, heads)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what PEFT and transformers use of each other
                return peft.get_peft_model(module, config)
        except (AttributeError, KeyError, NotImplementedError, TypeError, ValueError) as error:
            raise ConfigError(f"{self._where}: {_first_line(error)}") from None

    @property
    def _where(self) -> str:
        return f"adapter peft, method {self.method!r}"

    def _config(self, task: Task, heads: Sequence[str]) -> Any:
        kind = self._config_class()
        fields = {field.name for field in dataclasses.fields(kind) if field.init}
        for key in self._options:
            if key not in fields or key in FROM_TASK:
                hint = nearest(key, fields.difference(FROM_TASK))
                raise ConfigError(f"{self._where}: unknown option {key!r}; {hint}")
        options = {**self._options, "task_type": task_type_of(task)}
        if heads and "modules_to_save" in fields:
            saved = [name.partition(".")[0] for name in heads]
            given = options.get("modules_to_save")
            saved += [str(name) for name in given] if isinstance(given, list) else []
            options["modules_to_save"] = list(dict.fromkeys(saved))
        try:
            config = kind(**options)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{self._where}: {_first_line(error)}") from None
        self._check_prompts(config, task)
        return config

    def _config_class(self) -> Any:
        try:
            from peft import PEFT_TYPE_TO_CONFIG_MAPPING
        except ImportError:
            text = "adapter peft needs the peft library: pip install 'fedloom[models]'"
            raise ModelError(text) from None
        known = {kind.value: config for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
        if self.method not in known:
            hint = nearest(self.method, known)
            raise ConfigError(f"adapter peft: method = {self.method!r}: {hint}")
        if self.method in NEEDS_MORE:
            text = "it needs more than a batch of examples, such as ids of tasks"
            raise ConfigError(f"{self._where}: {text}; choose another method")
        return known[self.method]

    def _check_prompts(self, config: Any, task: Task) -> None:
        """Refuse virtual tokens where the model would read them instead of the text, or not at all.

        A classifier that reads the first or the last token would read a virtual one or padding;
        an encoder takes no past keys and values.
        """
        if not config.is_prompt_learning:
            return
        if self.method not in PROMPTS:
            known = ", ".join(PROMPTS)
            raise ConfigError(f"{self._where}: not supported; of methods with prompts, {known} are")
        if task.kind == "causal-lm":
            return
        if task.kind != "classify" or task.pooling != "mean":
            text = "it puts tokens before the text; backbone.pooling = 'mean' or task 'causal-lm'"
            raise ConfigError(f"{self._where}: {text} can be trained with it")
        if self.method == "PREFIX_TUNING":
            raise ConfigError(f"{self._where}: only language models (task 'causal-lm') take it")


def _as_list(value: Option) -> object:
    return [_as_list(item) for item in value] if isinstance(value, tuple) else value


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
