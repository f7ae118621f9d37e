package bench

import "math/rand/v2"

// letters are 64 printable bytes: 6 of 8 bits are random, so no codec gets a
// payload below 75 % by entropy alone; 96 of them keep it above 80 %.
const letters = " !\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefghijklmnopqrstuvwxyz{|}~\n"

// payloads makes n distinct values of size bytes each, the same in every run.
// All are cut from one block, so that the pool costs n*size bytes and no more.
func payloads(n, size int) [][]byte {
	rng := rand.New(rand.NewPCG(0x70656e73, 0x746f636b))
	block := make([]byte, n*size)
	for i := range block {
		block[i] = letters[rng.IntN(len(letters))]
	}
	pool := make([][]byte, n)
	for i := range pool {
		pool[i] = block[i*size : (i+1)*size : (i+1)*size]
	}
	return pool
}
