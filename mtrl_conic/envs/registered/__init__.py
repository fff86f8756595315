"""The fast Meta-World environments as gymnasium knows them, registered by `import mtrl_conic`."""
