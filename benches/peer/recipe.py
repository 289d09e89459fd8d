"""Recipes of fitup, as far as the peers read them."""

import tomllib


def load(path, changes):
    """The recipe with `key.path=value` changes, as `fitup --set` takes them."""
    with open(path, "rb") as file:
        recipe = tomllib.load(file)
    for change in changes:
        key, value = change.split("=", 1)
        *path, last = key.split(".")
        here = recipe
        for part in path:
            here = here.setdefault(part, {})
        try:
            here[last] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            here[last] = value
    objectives = recipe.setdefault("objectives", {})
    objectives.setdefault("queue_size", 65_536)
    objectives.setdefault("momentum", 0.995)
    objectives.setdefault("temp_range", [0.001, 0.5])
    return recipe
