"""Transform algebra; rigid, affine, deformable between any two exams.

found = register(ct, flair, kind="deformable")
flair_on_ct = found.transform.pull(flair, ct)
"""

from ichnos.registration.files import read_transform, write_transform
from ichnos.registration.register import Registration, RegistrationKind, assess, register
from ichnos.registration.transform import IDENTITY, Displacement, Transform

__all__ = [
    "IDENTITY",
    "Displacement",
    "Registration",
    "RegistrationKind",
    "Transform",
    "assess",
    "read_transform",
    "register",
    "write_transform",
]
