package main

import (
	"sync"
	"time"
)

// sightings are when each partition was read, and by whom.
type sightings struct {
	mu    sync.Mutex // guards the rest
	since time.Time  // of the last reset
	last  map[int32]sighting
	pause time.Duration     // the longest between two of the same reader, since the reset
	first map[int]time.Time // by reader, since the reset
}

type sighting struct {
	reader int
	at     time.Time
}

func newSightings() *sightings {
	return &sightings{last: map[int32]sighting{}, first: map[int]time.Time{}}
}

// reset forgets pauses and first sightings, but not who reads which partition: one that
// is read by nobody from now on is pausing.
func (s *sightings) reset(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.since, s.pause, s.first = now, 0, map[int]time.Time{}
}

func (s *sightings) see(reader int, partition int32, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if before, ok := s.last[partition]; ok && before.reader == reader {
		s.pause = max(s.pause, s.from(before, now))
	}
	s.last[partition] = sighting{reader, now}
	if s.first[reader].IsZero() {
		s.first[reader] = now
	}
}

// from is how much of a pause lies after the reset.
func (s *sightings) from(before sighting, now time.Time) time.Duration {
	if before.at.Before(s.since) {
		return now.Sub(s.since)
	}
	return now.Sub(before.at)
}

// longestPause is that of a partition between two sightings of one reader, or from the
// last one until now.
func (s *sightings) longestPause(now time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	longest := s.pause
	for _, l := range s.last {
		longest = max(longest, s.from(l, now))
	}
	return longest
}

// firstOf is when a reader had its first record since the reset.
func (s *sightings) firstOf(reader int) (time.Time, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, ok := s.first[reader]
	return at, ok
}

// reads reports whether a reader was the last to read some partition.
func (s *sightings) reads(reader int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.last {
		if l.reader == reader {
			return true
		}
	}
	return false
}
