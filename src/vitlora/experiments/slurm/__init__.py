"""Experiments as jobs of a SLURM cluster: submitted and watched from the login node, run on the others."""
