import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.Future;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/** Drives Apache Kafka's own client; ../doc.go has the arguments. */
public class Driver {
  static final Map<String, String> args = new HashMap<>(Map.of("codec", "none", "protocol", "classic", "from", "earliest",
      "commit", "auto", "count", "0", "rate", "0", "idempotent", "false"));
  static String topic;
  static int count;
  static volatile boolean left;

  public static void main(String[] argv) throws Exception {
    for (int i = 1; i < argv.length; i++) {
      String[] pair = argv[i].split("=", 2);
      args.put(pair[0], pair[1]);
    }
    topic = args.get("topic");
    count = Integer.parseInt(args.get("count"));
    switch (argv[0]) {
      case "produce" -> produce();
      case "consume" -> consume();
      case "group" -> group();
      case "admin" -> admin();
      default -> throw new IllegalArgumentException(argv[0]);
    }
    System.exit(0);
  }

  static Properties base() {
    Properties p = new Properties();
    p.put("bootstrap.servers", args.get("brokers"));
    return p;
  }

  static void say(String line) {
    synchronized (System.out) {
      System.out.println(line);
      System.out.flush();
    }
  }

  static void show(ConsumerRecord<String, String> r) {
    var h = r.headers().lastHeader("n");
    say("record " + r.partition() + " " + r.offset() + " " + (r.key() == null ? "-" : r.key()) + " " + r.value() + " "
        + (h == null ? "-" : new String(h.value(), StandardCharsets.UTF_8)));
  }

  static void produce() throws Exception {
    Properties p = base();
    p.put("acks", "all");
    p.put("linger.ms", "5");
    p.put("compression.type", args.get("codec"));
    p.put("enable.idempotence", args.get("idempotent"));
    int rate = Integer.parseInt(args.get("rate"));
    try (var producer = new KafkaProducer<>(p, new StringSerializer(), new StringSerializer())) {
      List<Future<RecordMetadata>> sent = new ArrayList<>();
      long start = System.nanoTime();
      if (rate > 0) watchInput();
      for (int n = 0; n < count && !left; n++) {
        if (rate > 0) {
          long wait = start + n * 1_000_000_000L / rate - System.nanoTime();
          if (wait > 0) Thread.sleep(wait / 1_000_000, (int) (wait % 1_000_000));
        }
        var r = new ProducerRecord<>(topic, n % 2 == 1 ? null : "k" + n % 7, "v" + n);
        r.headers().add("n", Integer.toString(n).getBytes(StandardCharsets.UTF_8));
        int number = n;
        sent.add(producer.send(r, (m, e) -> {
          if (e == null) say("acked " + number);
        }));
      }
      producer.flush();
      for (var f : sent) f.get();
    }
  }

  static KafkaConsumer<String, String> consumer(Properties p) {
    return new KafkaConsumer<>(p, new StringDeserializer(), new StringDeserializer());
  }

  static void consume() {
    Properties p = base();
    p.put("enable.auto.commit", "false");
    try (var c = consumer(p)) {
      List<TopicPartition> partitions = c.partitionsFor(topic).stream().map(i -> new TopicPartition(topic, i.partition())).toList();
      c.assign(partitions);
      if (args.get("from").equals("earliest")) {
        c.seekToBeginning(partitions);
      } else {
        Map<TopicPartition, Long> query = new HashMap<>();
        for (var tp : partitions) query.put(tp, Long.parseLong(args.get("from")));
        c.offsetsForTimes(query).forEach((tp, found) -> {
          if (found == null) c.seekToEnd(List.of(tp));
          else c.seek(tp, found.offset());
        });
      }
      for (int n = 0; n < count;) {
        for (var r : c.poll(Duration.ofMillis(200))) {
          if (n++ < count) show(r);
        }
      }
    }
  }

  /** Notes when standard input ends. */
  static void watchInput() {
    Thread watch = new Thread(() -> {
      try {
        while (System.in.read() >= 0) {
        }
      } catch (Exception e) {
        // closed: the same
      }
      left = true;
    });
    watch.setDaemon(true);
    watch.start();
  }

  static void group() {
    watchInput();
    boolean auto = args.get("commit").equals("auto");
    Properties p = base();
    p.put("group.id", args.get("group"));
    p.put("group.protocol", args.get("protocol"));
    p.put("auto.offset.reset", "earliest");
    p.put("enable.auto.commit", Boolean.toString(auto));
    p.put("auto.commit.interval.ms", "100");
    p.put("max.poll.records", "1");
    if (args.get("protocol").equals("classic")) p.put("heartbeat.interval.ms", "300");
    try (var c = consumer(p)) {
      c.subscribe(List.of(topic));
      for (int n = 0; n < count && !left;) {
        for (var r : c.poll(Duration.ofMillis(200))) {
          n++;
          show(r);
          if (!auto) c.commitSync(Map.of(new TopicPartition(topic, r.partition()), new OffsetAndMetadata(r.offset() + 1)));
        }
      }
    }
  }

  static void check(boolean ok, Object what) {
    if (!ok) throw new IllegalStateException(String.valueOf(what));
  }

  static void admin() throws Exception {
    try (var admin = Admin.create(base())) {
      admin.createTopics(List.of(new NewTopic(topic, 3, (short) 3).configs(Map.of("retention.ms", "3600000")))).all().get();
      var described = admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic);
      check(described.partitions().size() == 3, described);
      var resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
      admin.incrementalAlterConfigs(Map.of(resource, List.of(new AlterConfigOp(new ConfigEntry("retention.ms", "7200000"), AlterConfigOp.OpType.SET)))).all().get();
      var value = admin.describeConfigs(List.of(resource)).all().get().get(resource).get("retention.ms").value();
      check(value.equals("7200000"), value);
      admin.listOffsets(Map.of(new TopicPartition(topic, 0), OffsetSpec.latest())).all().get();
      admin.listOffsets(Map.of(new TopicPartition(topic, 0), OffsetSpec.maxTimestamp())).all().get();
      check(admin.describeCluster().nodes().get().size() == 3, "nodes");
      admin.listGroups().all().get();
      admin.describeLogDirs(List.of(1)).allDescriptions().get();
      admin.describeProducers(List.of(new TopicPartition(topic, 0))).partitionResult(new TopicPartition(topic, 0)).get();
      admin.deleteTopics(List.of(topic)).all().get();
    }
  }
}
