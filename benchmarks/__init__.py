"""Speed of userclue beside its peers and beside the floor of the machine: `make bench`. See README.md."""
