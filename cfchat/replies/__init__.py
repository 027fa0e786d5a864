"""How a reply looks on the wire to the front end, one file each."""
