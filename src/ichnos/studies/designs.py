"""What each of the four studies asks, on whom, and at what cost."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ichnos.cohort import Exam
from ichnos.errors import UsageError
from ichnos.simulation.cohort.design import Design, Group


@dataclass(frozen=True)
class StudyDesign:
    """One published study as it is run here; the cohort of the full design is the simulation's preset."""

    name: str  # also of the simulation's preset
    question: str
    paper: str  # the citation
    smoke: Design  # the cohort of `--smoke`: few patients, every stage
    least_per_group: int  # patients that each group keeps however small the scale
    parts: tuple[str, ...] = ()  # that can be run alone
    compact_parts: tuple[str, ...] = ()  # that a compact cohort is enough for
    oracle_samples: int = 0  # behind the oracle's map of growth in a compact cohort
    seeded_parts: tuple[str, ...] = ()  # whose classifiers are trained with several seeds
    nnunet_parts: tuple[str, ...] = ()  # that nnU-Net can be one more arm of; "" of a study without parts

    def refuse_unused(self, parts: tuple[str, ...], *, seeds: int, nnunet: bool) -> None:
        """Refuse several seeds and nnU-Net where none of the parts that run would use them.

        >>> DESIGNS["abramova2024"].refuse_unused((), seeds=1, nnunet=True)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ichnos.errors.UsageError: nnU-Net is no arm of what abramova2024 runs here: ...
        """
        run = set(parts or self.parts or ("",))
        if nnunet and not run & set(self.nnunet_parts):
            raise UsageError(f"nnU-Net is no arm of what {self.name} runs here: leave out --with-nnunet")
        if seeds > 1 and not run & set(self.seeded_parts):
            raise UsageError(
                f"--seeds trains classifiers several times, and {self.name} trains none here: leave it"
                " out, or give another --seed and another folder for each"
            )

    def parts_asked(self, asked: tuple[str, ...], *, compact: bool) -> tuple[str, ...]:
        """Return the parts to run, () for all; refuse unknown ones, and those that need whole heads.

        >>> DESIGNS["yu2025"].parts_asked((), compact=True)
        ('expansion', 'synthesis', 'conditional')
        """
        unknown = [part for part in asked if part not in self.parts]
        if unknown:
            known = f"its parts are {', '.join(self.parts)}" if self.parts else "it has no parts of its own"
            raise UsageError(f"{self.name} has no part {', '.join(unknown)}; {known}")
        if not compact:
            return asked
        fitting = tuple(part for part in asked or self.compact_parts if part in self.compact_parts)
        if (asked and fitting != asked) or not self.compact_parts:
            can = f"; a compact one serves {', '.join(self.compact_parts)}" if self.compact_parts else ""
            raise UsageError(f"{self.name} reads whole heads, and a compact cohort has none{can}")
        return () if fitting == self.parts else fitting

    def needed(self, whole: Design, asked: tuple[str, ...], *, compact: bool) -> Design:
        """Return the groups of a design that the parts need, with the exams that they read."""
        groups, parts = whole.groups, self.parts_asked(asked, compact=compact)
        if parts == ("outlines",):  # of the first CT alone
            groups = tuple(replace(group, exams=("ct",)) for group in groups)
        elif parts == ("tracts",):
            groups = tuple(group for group in groups if not group.trial)
        elif parts == ("trial",):  # which takes the simulation's own tract
            groups = tuple(replace(group, exams=()) for group in groups if group.trial)
        return replace(whole, groups=groups)


_PAIRED: tuple[Exam, ...] = ("ct", "followup")
DESIGNS: dict[str, StudyDesign] = {
    design.name: design
    for design in (
        StudyDesign(
            "murray2024",
            "Can the corticospinal tract be read from CT, and does its injury predict recovery?",
            "Murray et al., arXiv 2408.06403 (2024), applied to the MISTIE III trial; grades and effects of"
            " the same group's follow-on work.",
            Design(
                (
                    Group(2, "A", "train", ("ct", "diffusion")),
                    Group(1, "A", "validation", ("ct",)),
                    Group(1, "B", "test", ("ct", "diffusion")),
                    Group(2, "D", "external", ("ct",), least_ich_ml=30.0, trial=True),
                ),
                "six patients, to run every stage",
            ),
            least_per_group=4,  # one pair to train on says nothing
            parts=("tracts", "trial"),
            compact_parts=("trial",),
            nnunet_parts=("tracts",),
        ),
        StudyDesign(
            "ryu2025",
            "Can leukoaraiosis be measured on CT as FLAIR measures it?",
            "Ryu et al., Brain and Behavior 2025;15:e70602. Automated segmentation of leukoaraiosis on"
            " non-contrast CT.",
            Design(
                (
                    Group(2, "A", "train", ("ct", "flair"), haematoma_share=0.0),
                    Group(1, "A", "validation", ("ct", "flair"), haematoma_share=0.0),
                    Group(2, "B", "external", ("ct", "flair"), haematoma_share=0.0),
                    Group(1, "C", "external", ("ct",), haematoma_share=0.0),
                ),
                "six patients, to run every stage",
            ),
            least_per_group=5,  # a calibration is fitted on no fewer
            nnunet_parts=("",),
        ),
        StudyDesign(
            "abramova2024",
            "What will the haematoma look like at follow-up?",
            "Abramova et al. 2024, Applied Sciences 14:2708",
            Design(
                (Group(4, "A", "train", _PAIRED, expansion_share=1.0),),
                "expanded lesion: four patients, to run every stage",
            ),
            least_per_group=12,  # with fewer nothing can be left out
            parts=("forecast",),
            compact_parts=("forecast",),
            oracle_samples=32,
        ),
        StudyDesign(
            "yu2025",
            "Will the haematoma expand?",
            "Yu et al. 2025, npj Digital Medicine, s41746-025-02213-w",
            Design(
                (
                    Group(8, "A", "train", _PAIRED, expansion_share=0.5),
                    Group(2, "D", "external", _PAIRED, expansion_share=0.5),
                    Group(2, "E", "external", _PAIRED, expansion_share=0.5),
                ),
                "expansion: a few patients of three centres, to run every stage",
            ),
            least_per_group=5,
            parts=("outlines", "expansion", "synthesis", "conditional"),
            compact_parts=("expansion", "synthesis", "conditional"),
            seeded_parts=("expansion", "synthesis", "conditional"),
            nnunet_parts=("outlines",),
        ),
    )
}
