// Package boltfile reads a file of bbolt without trusting it.
//
// bbolt has checksums in its two meta pages and nowhere else, and maps the file into
// memory. Over a page that went bad it panics in a goroutine of its own, or touches memory
// beyond the file's end, and takes the process along; or it finds other entries than
// were stored, and says nothing. So the file is read first, page by page, by somebody who
// believes nothing:
//
//	meta 0 | meta 1 | page 2 | page 3 | ... | page pgid-1 | whatever
//	   \       \
//	    the tree of the newest transaction, and of the one before it
//
// Walk follows the tree of the newest meta page: every page must be where the file
// has room, be what it is used as, be reached once, keep its entries inside of itself, and its
// keys in order. Whether an entry is what was written only its owner knows, who is
// shown each.
//
// Both meta pages must be sound. A transaction writes its pages, syncs, writes its meta page in
// the place of the older one, and syncs: a crash leaves pages that nobody points at, and
// Walk does not look at them. bbolt itself goes on with the older meta page when
// the newest is bad, and has then forgotten a transaction that it had confirmed. Of a
// vote that is more than a cluster bears. That a crash tears the 80 bytes of a meta page, which lie in
// one sector, is left out of account: then the file is refused, too.
package boltfile
