"""Video models as files that run without flatzoo (ONNX, torch.export, TorchScript, AOTInductor), checked."""
from .check import ExportError as ExportError, Report as Report
from .exporter import export as export
from .formats import FORMATS as FORMATS, Exported as Exported, load as load
