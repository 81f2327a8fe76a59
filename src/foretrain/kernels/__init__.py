"""Infinite-width kernels, their Gram matrices, and the spectrum of a data set as a kernel sees it."""

from foretrain.kernels._empirical import empirical_ntk as empirical_ntk
from foretrain.kernels._gram import Kernel as Kernel
from foretrain.kernels._gram import gram as gram
from foretrain.kernels._gram import gram_bytes as gram_bytes
from foretrain.kernels._infinite_width import NNGP as NNGP
from foretrain.kernels._infinite_width import NTK as NTK
from foretrain.kernels._infinite_width import InfiniteWidthKernel as InfiniteWidthKernel
from foretrain.kernels._infinite_width import normalizing_variance as normalizing_variance
from foretrain.kernels._measure_spectrum import measure_spectrum as measure_spectrum
from foretrain.kernels._measured import Estimate as Estimate
from foretrain.kernels._measured import MeasuredSpectrum as MeasuredSpectrum
from foretrain.kernels._measured import jackknife_error as jackknife_error
from foretrain.kernels._tangent import tangent_kernel as tangent_kernel
