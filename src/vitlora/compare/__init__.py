"""Compare results of runs: with their uncertainty, from files alone, without torch and without DVC."""
