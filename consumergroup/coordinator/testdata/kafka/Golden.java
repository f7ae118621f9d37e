// Writes the records of __consumer_offsets that records_test.go compares with,
// in the words of Apache Kafka's own classes: name, key and value in hex, one
// record a line; "-" is the value of a tombstone.
//
//	mvn -q dependency:copy-dependencies -DoutputDirectory=lib
//	java -cp 'lib/*' Golden.java > golden.txt

import java.util.HexFormat;
import java.util.List;
import org.apache.kafka.common.Uuid;
import org.apache.kafka.common.protocol.ApiMessage;
import org.apache.kafka.common.protocol.types.RawTaggedField;
import org.apache.kafka.coordinator.common.runtime.CoordinatorRecord;
import org.apache.kafka.coordinator.group.GroupCoordinatorRecordSerde;
import org.apache.kafka.coordinator.group.generated.*;
import org.apache.kafka.coordinator.group.modern.MemberState;
import org.apache.kafka.server.common.ApiMessageAndVersion;

public class Golden {
    static void write(String name, ApiMessage key, ApiMessage value, int version) {
        var serde = new GroupCoordinatorRecordSerde();
        var record = value == null
            ? CoordinatorRecord.tombstone(key)
            : CoordinatorRecord.record(key, new ApiMessageAndVersion(value, (short) version));
        var hex = HexFormat.of();
        byte[] bytes = serde.serializeValue(record);
        System.out.println(name + " " + hex.formatHex(serde.serializeKey(record)) + " " + (bytes == null ? "-" : hex.formatHex(bytes)));
    }

    static ConsumerGroupCurrentMemberAssignmentValue.TopicPartitions partitions(Uuid topic, List<Integer> partitions, List<Integer> epochs) {
        return new ConsumerGroupCurrentMemberAssignmentValue.TopicPartitions().setTopicId(topic).setPartitions(partitions).setAssignmentEpochs(epochs);
    }

    public static void main(String[] args) {
        var offset = new OffsetCommitKey().setGroup("g").setTopic("t").setPartition(5);
        write("offset", offset, new OffsetCommitValue().setOffset(258).setLeaderEpoch(2).setMetadata("x").setCommitTimestamp(1)
            .setTopicId(new Uuid(0x0102030405060708L, 0x090a0b0c0d0e0f10L)), 4);
        write("offset-without-topic-id", offset, new OffsetCommitValue().setOffset(258).setLeaderEpoch(-1).setMetadata("").setCommitTimestamp(1), 4);
        write("offset-v3", offset, new OffsetCommitValue().setOffset(258).setLeaderEpoch(2).setMetadata("x").setCommitTimestamp(1), 3);
        write("offset-tombstone", offset, null, 0);

        var classic = new GroupMetadataKey().setGroup("g");
        write("classic", classic, new GroupMetadataValue().setProtocolType("consumer").setGeneration(3).setProtocol("range").setLeader("m1")
            .setCurrentStateTimestamp(7).setMembers(List.of(
                new GroupMetadataValue.MemberMetadata().setMemberId("m1").setGroupInstanceId("i").setClientId("c").setClientHost("/h")
                    .setRebalanceTimeout(60000).setSessionTimeout(10000).setSubscription(new byte[] {1, 2}).setAssignment(new byte[] {3}),
                new GroupMetadataValue.MemberMetadata().setMemberId("m2").setClientId("c").setClientHost("/h")
                    .setRebalanceTimeout(60000).setSessionTimeout(10000).setSubscription(new byte[] {}).setAssignment(new byte[] {}))), 3);
        write("classic-empty", classic, new GroupMetadataValue().setProtocolType("consumer").setGeneration(4)
            .setProtocol(null).setLeader(null).setCurrentStateTimestamp(8).setMembers(List.of()), 3);

        write("group", new ConsumerGroupMetadataKey().setGroupId("g"), new ConsumerGroupMetadataValue().setEpoch(7), 0);
        write("group-tombstone", new ConsumerGroupMetadataKey().setGroupId("g"), null, 0);

        var timeout = new RawTaggedField(7848, new byte[] {0, 0, 0x27, 0x10});
        var member = new ConsumerGroupMemberMetadataKey().setGroupId("g").setMemberId("m1");
        var names = new ConsumerGroupMemberMetadataValue().setInstanceId("i").setRackId(null).setClientId("c").setClientHost("h")
            .setSubscribedTopicNames(List.of("t")).setSubscribedTopicRegex(null).setRebalanceTimeoutMs(60000).setServerAssignor("range");
        names.unknownTaggedFields().add(timeout);
        write("member", member, names, 0);
        var byPattern = new ConsumerGroupMemberMetadataValue().setInstanceId(null).setRackId("a").setClientId("").setClientHost("")
            .setSubscribedTopicNames(List.of()).setSubscribedTopicRegex("t.*").setRebalanceTimeoutMs(60000).setServerAssignor(null);
        byPattern.unknownTaggedFields().add(timeout);
        write("member-of-a-pattern", member, byPattern, 0);
        var hosted = new ConsumerGroupMemberMetadataValue().setInstanceId(null).setRackId(null).setClientId("c").setClientHost("h")
            .setSubscribedTopicNames(List.of("t")).setSubscribedTopicRegex(null).setRebalanceTimeoutMs(60000).setServerAssignor(null)
            .setClassicMemberMetadata(new ConsumerGroupMemberMetadataValue.ClassicMemberMetadata().setSessionTimeoutMs(10000)
                .setSupportedProtocols(List.of(new ConsumerGroupMemberMetadataValue.ClassicProtocol().setName("range").setMetadata(new byte[] {1, 2}))));
        write("member-of-the-classic-protocol", member, hosted, 0);
        write("member-tombstone", member, null, 0);

        write("group-with-hash", new ConsumerGroupMetadataKey().setGroupId("g"), new ConsumerGroupMetadataValue().setEpoch(7).setMetadataHash(0x0102030405060708L), 0);
        var id = new Uuid(0x0102030405060708L, 0x090a0b0c0d0e0f10L);
        var other = new Uuid(0x1112131415161718L, 0x191a1b1c1d1e1f20L);
        var targetEpoch = new ConsumerGroupTargetAssignmentMetadataKey().setGroupId("g");
        write("target-epoch", targetEpoch, new ConsumerGroupTargetAssignmentMetadataValue().setAssignmentEpoch(7), 0);
        write("target-epoch-tombstone", targetEpoch, null, 0);
        var target = new ConsumerGroupTargetAssignmentMemberKey().setGroupId("g").setMemberId("m1");
        write("target", target, new ConsumerGroupTargetAssignmentMemberValue().setTopicPartitions(List.of(
            new ConsumerGroupTargetAssignmentMemberValue.TopicPartition().setTopicId(id).setPartitions(List.of(0, 2)),
            new ConsumerGroupTargetAssignmentMemberValue.TopicPartition().setTopicId(other).setPartitions(List.of(1)))), 0);
        write("target-of-nothing", target, new ConsumerGroupTargetAssignmentMemberValue().setTopicPartitions(List.of()), 0);
        write("target-tombstone", target, null, 0);
        var current = new ConsumerGroupCurrentMemberAssignmentKey().setGroupId("g").setMemberId("m1");
        write("current", current, new ConsumerGroupCurrentMemberAssignmentValue().setMemberEpoch(7).setPreviousMemberEpoch(6)
            .setState(MemberState.STABLE.value()).setAssignedPartitions(List.of(partitions(id, List.of(0, 2), List.of(5, 7)))), 0);
        write("current-giving-up", current, new ConsumerGroupCurrentMemberAssignmentValue().setMemberEpoch(6).setPreviousMemberEpoch(5)
            .setState(MemberState.UNREVOKED_PARTITIONS.value()).setAssignedPartitions(List.of(partitions(id, List.of(0), List.of(5))))
            .setPartitionsPendingRevocation(List.of(partitions(id, List.of(2), List.of(6)), partitions(other, List.of(1), List.of(6)))), 0);
        write("current-waiting", current, new ConsumerGroupCurrentMemberAssignmentValue().setMemberEpoch(7).setPreviousMemberEpoch(0)
            .setState(MemberState.UNRELEASED_PARTITIONS.value()), 0);
        write("current-without-epochs", current, new ConsumerGroupCurrentMemberAssignmentValue().setMemberEpoch(7).setPreviousMemberEpoch(6)
            .setAssignedPartitions(List.of(partitions(id, List.of(0, 2), null))), 0);
        write("current-tombstone", current, null, 0);
        var pattern = new ConsumerGroupRegularExpressionKey().setGroupId("g").setRegularExpression("t.*");
        write("pattern", pattern, new ConsumerGroupRegularExpressionValue().setTopics(List.of("t", "t2")).setVersion(9).setTimestamp(1), 0);
        write("pattern-tombstone", pattern, null, 0);
    }
}
