"""What Mask Transfiner hands over to CrispMask; read without its package, so it imports nothing heavy."""

from crispmask.heads import Head

_QUERY = "the query-based detector"

HEAD = Head(
    name="transfiner",
    title="Mask Transfiner",
    add_config=".config:add_transfiner_config",
    presets=".config:PRESETS",
    idle_keys=".config:IDLE_KEYS",
    optional_packages={"transformers": ("transformers", _QUERY), "scipy": ("scipy", _QUERY)},
)
