package broker

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstock/penstock/broker/partition"
	commitlog "github.com/penstock/penstock/log"
)

// metrics is what a broker shows of itself. Counters are moved on the hot path;
// everything else is read when somebody asks.
type metrics struct {
	b            *Broker
	produceBytes prometheus.Counter
	fetchBytes   prometheus.Counter

	replicas, leaders, uncommitted, offline, waiting *prometheus.Desc
	arenaBytes, logBytes, suspended                  *prometheus.Desc
	diskFull, diskFree, diskReserve                  *prometheus.Desc
	pinnedBytes, heldBack, shortReaders              *prometheus.Desc
	cachedBytes, flushes                             *prometheus.Desc
	moving, movingBytes                              *prometheus.Desc
	damagedLeaders, keptCopies                       *prometheus.Desc
}

func newMetrics(b *Broker) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "penstock", Name: name, Help: help})
	}
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("penstock_"+name, help, nil, nil)
	}
	return &metrics{
		b:              b,
		produceBytes:   counter("produce_bytes_total", "Bytes of batches that clients sent."),
		fetchBytes:     counter("fetch_bytes_total", "Bytes of batches that clients were sent."),
		replicas:       desc("replicas", "Replicas on this broker."),
		leaders:        desc("leaders", "Partitions led by this broker."),
		uncommitted:    desc("uncommitted_leaders", "Partitions led here whose high watermark is behind the log end."),
		offline:        desc("offline_replicas", "Replicas out of service because of damage or a failed write."),
		damagedLeaders: desc("damaged_leaders", "Partitions led here whose log is damaged: they serve what can be read, and take no records until another replica leads."),
		keptCopies:     desc("kept_damaged_copies", "Folders *.damaged: what is left of damaged replicas."),
		waiting:        desc("produce_waiting", "Produce requests that wait for acknowledgements."),
		arenaBytes:     desc("arena_bytes", "Bytes of batches held in memory."),
		pinnedBytes:    desc("arena_pinned_bytes", "The part of arena_bytes that readers hold."),
		heldBack:       desc("produce_held_back_bytes", "Bytes of produce requests that wait at the door for memory."),
		shortReaders:   desc("fetch_waiting_for_memory", "Fetch requests that wait for what other readers hold."),
		logBytes:       desc("log_bytes", "Bytes of the logs on disk."),
		cachedBytes:    desc("page_cache_bytes", "The part of log_bytes that is left in the kernel's page cache (page.cache.bytes)."),
		flushes:        desc("flush_seconds", "How long syncs of segments and of the flush journal took; most appends wait for one."),
		moving:         desc("reassigning_leaders", "Partitions led here with replicas that a reassignment added."),
		movingBytes:    desc("reassignment_behind_bytes", "Bytes of log that those replicas still lack, in proportion to the records."),
		suspended:      desc("suspended", "1 while no controller is heard and the broker does not act as leader."),
		diskFull:       desc("disk_full", "1 while produce is refused for lack of disk space."),
		diskFree:       desc("disk_free_bytes", "Bytes free in the file system of data.dir, without those that are appended and not written yet."),
		diskReserve:    desc("disk_reserve_bytes", "Free bytes below which produce is refused (disk.reserve)."),
	}
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	m.produceBytes.Describe(ch)
	m.fetchBytes.Describe(ch)
	for _, d := range []*prometheus.Desc{m.replicas, m.leaders, m.uncommitted, m.offline, m.waiting, m.arenaBytes, m.logBytes, m.suspended, m.diskFull, m.diskFree, m.diskReserve, m.pinnedBytes, m.heldBack, m.shortReaders, m.cachedBytes, m.flushes, m.moving, m.movingBytes, m.damagedLeaders, m.keptCopies} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	m.produceBytes.Collect(ch)
	m.fetchBytes.Collect(ch)
	var replicas, leaders, damaged, behind, offline, waiting, moving int
	var bytes, movingBytes int64
	for _, l := range m.b.table.all() {
		replicas++
		bytes += l.log.Size()
		l.mu.Lock()
		adding := l.adding
		if l.state.Damage() != partition.DamageNone {
			offline++
		}
		if l.state.Role() == partition.RoleLeader {
			leaders++
			if l.log.Damage() != commitlog.DamageNone {
				damaged++
			}
			waiting += l.state.Waiting()
			if l.state.HighWatermark() < l.state.End() {
				behind++
			}
			if len(adding) > 0 {
				moving++
			}
		}
		l.mu.Unlock()
		for _, c := range l.catchUp(adding) {
			movingBytes += c.BytesBehind
		}
	}
	gauge := func(d *prometheus.Desc, v float64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v)
	}
	gauge(m.replicas, float64(replicas))
	gauge(m.leaders, float64(leaders))
	gauge(m.uncommitted, float64(behind))
	gauge(m.offline, float64(offline))
	gauge(m.damagedLeaders, float64(damaged))
	gauge(m.keptCopies, float64(len(m.b.cfg.Dir.KeptDamaged())))
	gauge(m.waiting, float64(waiting))
	gauge(m.arenaBytes, float64(m.b.cfg.Arena.InUse()))
	gauge(m.pinnedBytes, float64(m.b.cfg.Arena.Pinned()))
	gauge(m.heldBack, float64(m.b.admission.heldBack()))
	gauge(m.shortReaders, float64(m.b.short.waiting.Load()))
	gauge(m.logBytes, float64(bytes))
	gauge(m.cachedBytes, float64(m.b.cfg.Dir.Cached()))
	m.collectFlushes(ch)
	gauge(m.moving, float64(moving))
	gauge(m.movingBytes, float64(movingBytes))
	gauge(m.suspended, boolean(m.b.suspended.Load()))
	gauge(m.diskFull, boolean(m.b.diskFull.Load()))
	if free, reserve, err := m.b.cfg.Dir.Space(); err == nil {
		gauge(m.diskFree, float64(free))
		gauge(m.diskReserve, float64(reserve))
	}
}

func (m *metrics) collectFlushes(ch chan<- prometheus.Metric) {
	times := m.b.cfg.Dir.FlushTimes()
	buckets := map[float64]uint64{}
	for bound, n := range times.Buckets() {
		buckets[bound.Seconds()] = n
	}
	ch <- prometheus.MustNewConstHistogram(m.flushes, times.Count(), times.Total().Seconds(), buckets)
}

func boolean(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
