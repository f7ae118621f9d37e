// Package assignor decides which member of a consumer group reads which
// partition. Its functions are pure: the same input gives the same output
// whatever the order of the members, on every broker.
//
// Three assignors exist. All give every partition of a topic that somebody
// subscribes to, to exactly one member that subscribes to it.
//
//	uniform     (default) sticky: members keep what they own as far as balance
//	            allows. With equal subscriptions loads differ by at most one
//	            and the number of partitions that move is the least possible.
//	range       topic by topic, each member a run of neighbours: partitions of
//	            equal number of several topics land on the same member (joins).
//	roundrobin  all partitions in order dealt to the members in turn.
//
// # Uniform
//
// With n members of equal subscriptions and P partitions, q = P/n and r = P%n,
// at most r members may hold q+1. Every member keeps up to q of what it owns;
// r members that own more keep one more; the rest goes to the members below
// their quota. A member that owns o partitions keeps at most min(o, q) plus an
// extra one, so no balanced assignment keeps more: the moves are minimal.
//
// With subscriptions that differ, what is owned stays, every other partition
// goes to the least loaded of its subscribers, topics with the fewest
// subscribers first, and then single partitions move from a member to one with
// at least two fewer, while there is such a pair. That is a local optimum: no
// single move makes it more even. Finding the global one is a flow problem,
// and moves more partitions than it is worth.
//
// # Racks
//
// Where a partition has no owner yet, uniform prefers a member in whose rack one
// of its replicas is, as far as balance allows. It moves nothing for that:
// partitions come near with the changes that move them anyway.
//
// # Rejected
//
// Kafka's eager sticky assignor carries the last assignment in the members'
// user data; here the group knows it, so nothing can disagree about it.
package assignor
