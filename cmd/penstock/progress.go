package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/term"
)

// progressBar shows on a terminal how far a long work is.
type progressBar struct {
	w     io.Writer // nil: no terminal
	began time.Time
	last  time.Time
	shown bool
}

func newProgressBar(f *os.File) *progressBar {
	b := &progressBar{began: time.Now()}
	if term.IsTerminal(int(f.Fd())) {
		b.w = f
	}
	return b
}

func (b *progressBar) set(done, total int64) {
	if b.w == nil || total <= 0 {
		return
	}
	now := time.Now()
	if now.Sub(b.began) < time.Second || now.Sub(b.last) < 200*time.Millisecond {
		return
	}
	b.draw(now, done, total)
	fmt.Fprintf(b.w, ", %d of %d MiB", done>>20, total>>20)
}

// count is set for what is counted in units.
func (b *progressBar) count(done, total int64, unit string) {
	if b.w == nil || total <= 0 {
		return
	}
	now := time.Now()
	if now.Sub(b.last) < 200*time.Millisecond {
		return
	}
	b.draw(now, done, total)
	fmt.Fprintf(b.w, ", %d of %d %s", done, total, unit)
}

func (b *progressBar) draw(now time.Time, done, total int64) {
	b.last, b.shown = now, true
	const width = 30
	full := int(min(done, total) * width / total)
	var bar [width]byte
	for i := range bar {
		bar[i] = '.'
		if i < full {
			bar[i] = '#'
		}
	}
	fmt.Fprintf(b.w, "\r\x1b[K[%s] %3d %%", bar[:], min(done, total)*100/total)
}

// clear makes room for a line.
func (b *progressBar) clear() {
	if b.shown {
		fmt.Fprint(b.w, "\r\x1b[K")
		b.shown = false
	}
}
