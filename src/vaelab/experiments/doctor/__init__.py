"""What is wrong with this machine, these data, this setting: what ``vae-doctor`` looks at, one concept a file."""
