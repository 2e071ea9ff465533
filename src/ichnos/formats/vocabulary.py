"""What a header may say without telling who the patient is: vendors and kernels that everybody knows."""

from __future__ import annotations

import re
from dataclasses import replace

from ichnos.scan import Acquisition, modality_name

# Part of ManufacturerName -> what is written of it.
_VENDORS = {
    "GE": "GE",
    "SIEMENS": "Siemens",
    "PHILIPS": "Philips",
    "TOSHIBA": "Canon",
    "CANON": "Canon",
    "HITACHI": "Hitachi",
    "FUJIFILM": "Fujifilm",
    "NEUSOFT": "Neusoft",
    "UIH": "United Imaging",
    "UNITED IMAGING": "United Imaging",
    "SAMSUNG": "Samsung",
    "NEUROLOGICA": "NeuroLogica",
}
_KERNEL_WORDS = "STANDARD|SOFT|BONE|BONEPLUS|DETAIL|EDGE|LUNG|CHEST|HEAD|BRAIN|SHARP|STND"
_KERNEL = re.compile(rf"({_KERNEL_WORDS})|[A-Z]{{1,2}}|[A-Z]{{1,2}}\d{{2}}[A-Z]?|[A-Z]", re.IGNORECASE)


def known_vendor(text: str | None) -> str | None:
    """Return a scanner's vendor, None for one that is not known.

    >>> known_vendor("GE MEDICAL SYSTEMS"), known_vendor("Dr. Doe's clinic")
    ('GE', None)
    """
    words = f" {re.sub(r'[^A-Z]+', ' ', (text or '').upper())} "
    return next((vendor for name, vendor in _VENDORS.items() if f" {name} " in words), None)


def known_kernel(text: str | None) -> str | None:
    """Return a reconstruction kernel that is named as kernels are, None for any other text.

    >>> known_kernel("H31s"), known_kernel("DOE JOHN")
    ('H31s', None)
    """
    return text if text and _KERNEL.fullmatch(text) else None


def without_free_text(acquisition: Acquisition) -> Acquisition:
    """Return an acquisition in which every text is one of a known few."""
    return replace(
        acquisition,
        modality=modality_name(acquisition.modality),
        manufacturer=known_vendor(acquisition.manufacturer),
        scanner=None,
        kernel=known_kernel(acquisition.kernel),
        contrast_agent="yes" if acquisition.contrast_agent else None,
        date=None,
        series_description=None,
    )
