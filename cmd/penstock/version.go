package main

// Set by the linker; see the Makefile.
var (
	version = "dev"
	gitRev  = "unknown" //nolint:gochecknoglobals // the linker can set nothing else
)
