package main

// Set by the linker; see the Makefile.
var (
	version = "dev"     //nolint:gochecknoglobals // the linker can set nothing else
	gitRev  = "unknown" //nolint:gochecknoglobals // likewise
)
