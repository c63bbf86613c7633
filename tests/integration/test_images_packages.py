"""Images built from this machine's own packages."""

import pytest

from kci.kit import errors
from kci.stack.images import catalogue, packages

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("recipe", catalogue.RECIPES, ids=lambda recipe: recipe.name)
def test_an_image_built_twice_has_the_same_digest(recipe):
    first, second = (recipe.build(catalogue.architecture()) for _ in range(2))
    assert first.digest == second.digest


def test_a_package_that_apt_does_not_offer_is_refused_with_the_remedy():
    with pytest.raises(errors.UserError, match="apt-get update"):
        packages.candidate("kci-no-such-package")
