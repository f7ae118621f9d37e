// Package failover measures for how long writes stop when something dies, and
// compares it with what is promised:
//
//	leader       a leader that is not the controller is killed
//	controller   one that is both is killed
//	stop         a leader sleeps (SIGSTOP)
//	cut          a leader is cut off from everybody, packets are dropped
//	steady       full load and no fault: nothing is elected, nobody is fenced
//	power        the power of the whole cluster is cut
//
// All but steady run under half the load that the cluster was found to take. An
// outage runs from the fault to the acknowledgement of the first record sent after
// it, with acks=all and synced, for each partition that the node led; of power, from
// the moment at which the processes are started again. Afterwards every record that
// was ever acknowledged to the prober is read back at its offset.
package failover
