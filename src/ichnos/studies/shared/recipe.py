"""The recipe of a study: small or published settings for all its networks, and what a file changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from ichnos.errors import UsageError
from ichnos.learning.loop.settings import changed
from ichnos.learning.recipes import PUBLISHED, SMALL, recipe_file

_Tree = TypeVar("_Tree", bound=BaseModel)


class StudyRecipe(BaseModel):
    """How all networks of a study are trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: Literal["small", "published"] = "small"
    networks: dict[str, dict[str, Any]] = {}  # name of a network -> its changed settings

    def applied(self, name: str, settings: _Tree) -> _Tree:
        """Return a network's settings with what the recipe changes of them.

        >>> from ichnos.learning.loop.settings import LoopSettings
        >>> StudyRecipe(networks={"warp": {"steps": 9}}).applied("warp", LoopSettings()).steps
        9
        """
        return changed(settings, self.networks.get(name, {}))


def study_recipe(name: str) -> StudyRecipe:
    """Return a recipe by its name, or from a file with `base: small` and `networks: {NAME: {steps: 9}}`.

    >>> study_recipe("published").base
    'published'
    """
    if name == SMALL:
        return StudyRecipe(base="small")
    if name == PUBLISHED:
        return StudyRecipe(base="published")
    return _from_content(recipe_file(name), name)


def _from_content(content: Mapping[str, Any], name: str) -> StudyRecipe:
    try:
        return StudyRecipe.model_validate(content)
    except ValidationError as error:
        at = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise UsageError(
            f"{name} is no recipe of a study: {at}: {error.errors()[0]['msg']}; give base: small or"
            " published, and networks: with changed settings under the name of each network"
        ) from None


def check_networks(recipe: StudyRecipe, known: tuple[str, ...], study: str) -> None:
    """Refuse changes for a network that the study does not train."""
    unknown = sorted(set(recipe.networks) - set(known))
    if unknown:
        raise UsageError(
            f"the recipe changes {', '.join(unknown)}, which {study} does not train; it trains"
            f" {', '.join(known)}"
        )
