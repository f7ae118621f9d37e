package bench

import (
	"fmt"
	"math/rand/v2"
)

// letters are 64 printable bytes: 6 of 8 bits are random, so no codec gets a
// payload below 75 % by entropy alone; 96 of them keep it above 80 %.
const letters = " !\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefghijklmnopqrstuvwxyz{|}~\n"

// What payloads are of.
const (
	randomPayload = "random"
	ordersPayload = "orders"
)

// maxPool is about how much memory a pool takes; values that need more overlap, far
// from each other in the order in which they are sent.
const maxPool = 256 << 20

func newRand() *rand.Rand { return rand.New(rand.NewPCG(0x70656e73, 0x746f636b)) }

// Payloads makes n distinct values of size bytes each, the same in every run. All
// are cut from one block, so that the pool costs n*size bytes at most.
func Payloads(n, size int) [][]byte {
	rng := newRand()
	block := make([]byte, min(n*size, max(maxPool, 4*size)))
	for i := range block {
		block[i] = letters[rng.IntN(len(letters))]
	}
	return cut(block, n, size)
}

// stride is a prime, whose multiples visit all places of a pool that is no multiple of it.
const stride = 7919

func cut(block []byte, n, size int) [][]byte {
	pool := make([][]byte, n)
	if n*size <= len(block) {
		for i := range pool {
			pool[i] = block[i*size : (i+1)*size : (i+1)*size]
		}
		return pool
	}
	step, hop := (len(block)-size)/n, stride
	if n%hop == 0 {
		hop = 1
	}
	for i := range pool {
		from := i * hop % n * step
		pool[i] = block[from : from+size : from+size]
	}
	return pool
}

// orders makes n distinct values of size bytes that look like what people send: an
// order in JSON, cut off or drawn out to the size. Codecs find something to do there.
func orders(n, size int) [][]byte {
	rng := newRand()
	states := []string{"new", "paid", "packed", "shipped", "delivered"}
	pool := make([][]byte, n)
	for i := range pool {
		b := fmt.Appendf(nil, `{"order_id":"%016x","customer":%d,"status":%q,"at":"2026-11-%02dT%02d:%02d:%02dZ","items":[`,
			rng.Uint64(), rng.IntN(1_000_000), states[rng.IntN(len(states))], 1+rng.IntN(30), rng.IntN(24), rng.IntN(60), rng.IntN(60))
		for len(b) < size {
			b = fmt.Appendf(b, `{"sku":"SKU-%06d","quantity":%d,"price":%d.%02d,"currency":"EUR"},`, rng.IntN(50_000), 1+rng.IntN(9), rng.IntN(300), rng.IntN(100))
		}
		pool[i] = b[:size:size]
	}
	return pool
}

func (o *Options) pool() [][]byte {
	if o.Payload == ordersPayload {
		return orders(o.Payloads, o.RecordSize)
	}
	return Payloads(o.Payloads, o.RecordSize)
}

func (o *Options) describePayload() string {
	if o.Payload == ordersPayload {
		return fmt.Sprintf("%d distinct orders in JSON", o.Payloads)
	}
	return fmt.Sprintf("%d distinct values of random letters", o.Payloads)
}
