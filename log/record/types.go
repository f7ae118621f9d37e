package record

// Offset numbers the records of a partition from 0. As a bound it is exclusive:
// the end of a log is the offset that the next record will get.
type Offset int64

// UnknownOffset is what a value that is not known holds; never zero.
const UnknownOffset Offset = -1

// Epoch counts the leaders of a partition from 0.
type Epoch int32

// UnknownEpoch is the epoch of an empty log and of callers that know none.
const UnknownEpoch Epoch = -1
