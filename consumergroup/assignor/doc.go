package assignor
