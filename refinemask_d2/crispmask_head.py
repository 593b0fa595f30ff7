"""What RefineMask hands over to CrispMask; read without its package, so it imports nothing heavy."""

from crispmask.heads import Head

HEAD = Head(
    name="refinemask",
    title="RefineMask",
    add_config=".config:add_refinemask_config",
    idle_keys=".config:IDLE_KEYS",
)
