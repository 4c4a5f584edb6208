"""Settings of `hat` by their flat names, as the command line has them."""

from clfunc.hard_attention import Gating, Rates


def parts_of(settings):
    """Keyword arguments of `hat`: settings of the gates and of the rates in their parts."""
    found = {}
    for name, value in settings.items():
        if name in Gating._fields:
            found["gates"] = found.get("gates", Gating())._replace(**{name: value})
        elif name in Rates._fields:
            found["rates"] = found.get("rates", Rates())._replace(**{name: value})
        else:
            found[name] = value
    return found
