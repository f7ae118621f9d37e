// Package vfs is the seam between the log and the file system: small
// interfaces with three implementations.
//
//   - OS is the real one. Datasync is fdatasync(2), which suffices for appends,
//     their new length included, and doubted where it races with the end of the
//     file system; WriteVecAt is pwritev(2); folders are synced.
//   - Mem keeps everything in memory and knows, page by page and name by name,
//     what was synced. CrashClone returns what a power cut would leave: by
//     default only what was synced, with a seed also an arbitrary part of the
//     rest, whole pages or torn ones. Watch tells of every change, so that a test
//     can cut the power at each. KillClone is what the death of the process leaves.
//   - Faults wraps another one and fails chosen operations, or lets them hang. A failed Datasync on
//     a Mem loses the pages it should have written although a later Datasync
//     succeeds, as Linux does (LWN "PostgreSQL's fsync() surprise").
//
// The interfaces are cut by what they are about so that each stays small; code
// that needs all takes an FS.
package vfs
