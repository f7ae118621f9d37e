package chaos

// UseBinary makes nodes that are started from now on run another binary: for
// clusters of two releases.
func (c *Cluster) UseBinary(path string) { c.opts.Binary = path }
