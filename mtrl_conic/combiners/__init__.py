"""Gradient combiners: one file and one `configs/combiner/*.yaml` per method."""

from mtrl_conic.combiners.aligned_mtl import AlignedMTL
from mtrl_conic.combiners.base import Combiner
from mtrl_conic.combiners.cagrad import CAGrad
from mtrl_conic.combiners.conicgrad import ConicGrad
from mtrl_conic.combiners.dwa import DWA
from mtrl_conic.combiners.fairgrad import FairGrad
from mtrl_conic.combiners.famo import FAMO
from mtrl_conic.combiners.graddrop import GradDrop
from mtrl_conic.combiners.gradnorm import GradNorm
from mtrl_conic.combiners.imtl_g import IMTLG
from mtrl_conic.combiners.ls import LS
from mtrl_conic.combiners.mgda import MGDA
from mtrl_conic.combiners.nashmtl import NashMTL
from mtrl_conic.combiners.pcgrad import PCGrad
from mtrl_conic.combiners.rlw import RLW
from mtrl_conic.combiners.sdmgrad import SDMGrad
from mtrl_conic.combiners.si import SI
from mtrl_conic.combiners.torchjd import TorchJD
from mtrl_conic.combiners.upgrad import UPGrad
from mtrl_conic.combiners.uw import UW

__all__ = [
    "DWA",
    "FAMO",
    "IMTLG",
    "LS",
    "MGDA",
    "RLW",
    "SI",
    "UW",
    "AlignedMTL",
    "CAGrad",
    "Combiner",
    "ConicGrad",
    "FairGrad",
    "GradDrop",
    "GradNorm",
    "NashMTL",
    "PCGrad",
    "SDMGrad",
    "TorchJD",
    "UPGrad",
]
