"""Training and evaluation: Detectron2's trainer and hooks, and what they lack."""

from crispmask.engine.arguments import (
    argument_parser,
    load_config,
    load_run_config,
    parse_arguments,
    resolve_config_file,
)
from crispmask.engine.checkpointer import AtomicCheckpointer
from crispmask.engine.checks import check_run
from crispmask.engine.fine_tuning import settle_start, start_options
from crispmask.engine.launch import launch
from crispmask.engine.own_data import settle_own_data
from crispmask.engine.resume import describe_kept
from crispmask.engine.setup import setup_run
from crispmask.engine.steps import TrainSteps
from crispmask.engine.trainer import Trainer
from crispmask.engine.value_range import settle_value_range
from crispmask.errors import NonFiniteError, UserError, exit_on_user_error

__all__ = [
    "AtomicCheckpointer",
    "NonFiniteError",
    "TrainSteps",
    "Trainer",
    "UserError",
    "argument_parser",
    "check_run",
    "describe_kept",
    "exit_on_user_error",
    "launch",
    "load_config",
    "load_run_config",
    "parse_arguments",
    "resolve_config_file",
    "settle_own_data",
    "settle_start",
    "settle_value_range",
    "setup_run",
    "start_options",
]
