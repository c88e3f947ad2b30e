"""The compact network: what it adds to the matching prior, with the memory it carries."""

from ttt_core.network.config import MEMORIES, PATCH, NetworkConfig
from ttt_core.network.inputs import NetworkInput
from ttt_core.network.network import CompactNetwork
from ttt_core.network.outputs import Imagined, NetworkOutput
from ttt_core.network.volume import RecordEdit, WriteRecord

__all__ = [
    "MEMORIES",
    "PATCH",
    "CompactNetwork",
    "Imagined",
    "NetworkConfig",
    "NetworkInput",
    "NetworkOutput",
    "RecordEdit",
    "WriteRecord",
]
