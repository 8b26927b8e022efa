"""placeholder until the data helper writes it"""
from dataclasses import dataclass
@dataclass(frozen=True)
class EvalProtocol:
    sampling: str = 'uniform'
    num_clips: int = 1
    num_crops: int = 1
