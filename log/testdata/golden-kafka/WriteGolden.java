// Writes one partition's folder with Apache Kafka's own log: the classes that a
// broker appends with, not a client's encoder. README.md says how to run it.

import java.io.File;
import java.nio.charset.StandardCharsets;
import java.util.Map;
import java.util.Optional;
import java.util.concurrent.ConcurrentHashMap;
import org.apache.kafka.common.Uuid;
import org.apache.kafka.common.compress.Compression;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.record.CompressionType;
import org.apache.kafka.common.record.ControlRecordType;
import org.apache.kafka.common.record.EndTransactionMarker;
import org.apache.kafka.common.record.MemoryRecords;
import org.apache.kafka.common.record.SimpleRecord;
import org.apache.kafka.common.utils.Time;
import org.apache.kafka.server.util.KafkaScheduler;
import org.apache.kafka.storage.internals.log.AppendOrigin;
import org.apache.kafka.storage.internals.log.LogConfig;
import org.apache.kafka.storage.internals.log.LogDirFailureChannel;
import org.apache.kafka.storage.internals.log.LogOffsetsListener;
import org.apache.kafka.storage.internals.log.ProducerStateManagerConfig;
import org.apache.kafka.storage.internals.log.UnifiedLog;
import org.apache.kafka.storage.log.metrics.BrokerTopicStats;

public class WriteGolden {
    static final long T0 = 1_700_000_000_000L;
    static int made = 0;

    static byte[] bytes(String s) {
        return s == null ? null : s.getBytes(StandardCharsets.UTF_8);
    }

    /** A record with a number in it; every third has headers, every fourth no key, every seventh no value. */
    static SimpleRecord next() {
        int i = made++;
        Header[] headers = i % 3 == 0
            ? new Header[] {new RecordHeader("trace", bytes("t-" + i)), new RecordHeader("empty", null)}
            : new Header[0];
        return new SimpleRecord(T0 + 10L * i, i % 4 == 3 ? null : bytes("key-" + i), i % 7 == 6 ? null : bytes("value-" + i + "-" + "x".repeat(i)), headers);
    }

    static SimpleRecord[] three() {
        return new SimpleRecord[] {next(), next(), next()};
    }

    public static void main(String[] args) throws Exception {
        File dir = new File(args[0], "kafka-0");
        if (!dir.mkdirs()) throw new IllegalStateException(dir + " exists");
        LogConfig config = new LogConfig(Map.of("index.interval.bytes", "300"));
        KafkaScheduler scheduler = new KafkaScheduler(1);
        scheduler.startup();
        UnifiedLog log = UnifiedLog.create(dir, config, 0, 0, scheduler, new BrokerTopicStats(), Time.SYSTEM,
            3_600_000, new ProducerStateManagerConfig(86_400_000, false), 600_000, new LogDirFailureChannel(1), true,
            Optional.of(new Uuid(0x0a01020300000000L, 0x0000000000000001L)), new ConcurrentHashMap<>(), false, LogOffsetsListener.NO_OP_OFFSETS_LISTENER);

        for (CompressionType type : new CompressionType[] {
            CompressionType.NONE, CompressionType.GZIP, CompressionType.SNAPPY, CompressionType.LZ4, CompressionType.ZSTD}) {
            log.appendAsLeader(MemoryRecords.withRecords(Compression.of(type).build(), three()), 0);
        }
        // An idempotent producer, in a later leader epoch, across a roll.
        log.appendAsLeader(MemoryRecords.withIdempotentRecords(Compression.NONE, 42L, (short) 1, 0, three()), 2);
        log.appendAsLeader(MemoryRecords.withIdempotentRecords(Compression.of(CompressionType.ZSTD).build(), 42L, (short) 1, 3, three()), 2);
        log.roll();
        log.appendAsLeader(MemoryRecords.withIdempotentRecords(Compression.NONE, 42L, (short) 1, 6, three()), 2);
        // A transaction and its marker: a control batch.
        log.appendAsLeader(MemoryRecords.withTransactionalRecords(Compression.of(CompressionType.LZ4).build(), 77L, (short) 0, 0, three()), 5);
        log.appendAsLeader(MemoryRecords.withEndTransactionMarker(T0 + 1_000, 77L, (short) 0, new EndTransactionMarker(ControlRecordType.COMMIT, 9)), 5, AppendOrigin.COORDINATOR);
        log.appendAsLeader(MemoryRecords.withRecords(Compression.NONE, new SimpleRecord(-1L, bytes("no time"), bytes("none"))), 5);

        log.flush(true);
        log.close();
        scheduler.shutdown();
    }
}
