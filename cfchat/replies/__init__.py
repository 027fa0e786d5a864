"""How a reply looks on the wire to the front end, one file each; `form` says what they have in common."""
