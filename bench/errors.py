"""Errors that are the user's to mend: shown as one message that names the cure, without a traceback."""

from bench.budget import BudgetError
from bench.checkpoints import CorruptCheckpoint
from bench.config import ConfigError
from bench.data import DataError
from bench.distributed import LostProcess, Uneven
from bench.extras import MissingPackage
from bench.hardware import NoDevice
from bench.results import Busy, CorruptResults
from bench.run import NotTrained
from bench.train import Diverged
from kernels.check import CheckFailed
from kernels.op import MissingImplementation
from models.checkpoints.config import CheckpointError
from models.mixer import SizeError

EXPECTED = (
    BudgetError,
    Busy,
    CheckFailed,
    CheckpointError,
    ConfigError,
    CorruptCheckpoint,
    CorruptResults,
    DataError,
    Diverged,
    LostProcess,
    MissingImplementation,
    MissingPackage,
    NoDevice,
    NotTrained,
    SizeError,
    Uneven,
)
