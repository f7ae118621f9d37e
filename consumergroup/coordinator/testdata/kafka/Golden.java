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
        var pattern = new ConsumerGroupMemberMetadataValue().setInstanceId(null).setRackId("a").setClientId("").setClientHost("")
            .setSubscribedTopicNames(List.of()).setSubscribedTopicRegex("t.*").setRebalanceTimeoutMs(60000).setServerAssignor(null);
        pattern.unknownTaggedFields().add(timeout);
        write("member-of-a-pattern", member, pattern, 0);
        var hosted = new ConsumerGroupMemberMetadataValue().setInstanceId(null).setRackId(null).setClientId("c").setClientHost("h")
            .setSubscribedTopicNames(List.of("t")).setSubscribedTopicRegex(null).setRebalanceTimeoutMs(60000).setServerAssignor(null)
            .setClassicMemberMetadata(new ConsumerGroupMemberMetadataValue.ClassicMemberMetadata().setSessionTimeoutMs(10000)
                .setSupportedProtocols(List.of(new ConsumerGroupMemberMetadataValue.ClassicProtocol().setName("range").setMetadata(new byte[] {1, 2}))));
        write("member-of-the-classic-protocol", member, hosted, 0);
        write("member-tombstone", member, null, 0);
    }
}
