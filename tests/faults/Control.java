import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewPartitionReassignment;
import org.apache.kafka.clients.admin.TopicDescription;
import org.apache.kafka.common.ElectionType;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.TopicPartitionInfo;
import org.apache.kafka.common.quota.ClientQuotaAlteration;
import org.apache.kafka.common.quota.ClientQuotaEntity;

/** What only Java's client asks of brokers: SERVERS move TOPICS SECONDS TIMES, quota NAME VALUE|none, or controller. */
public final class Control {
    public static void main(String[] args) throws Exception {
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", args[0]))) {
            if (args[1].equals("quota")) {
                quota(admin, args[2], args[3]);
                return;
            }
            if (args[1].equals("controller")) {
                System.out.println(admin.describeMetadataQuorum().quorumInfo().get().leaderId());
                return;
            }
            for (int round = 0; round < Integer.parseInt(args[4]); round++) {
                move(admin, Arrays.asList(args[2].split(",")));
                Thread.sleep(1000L * Integer.parseInt(args[3]));
            }
        }
    }

    private static void quota(Admin admin, String name, String value) throws Exception {
        ClientQuotaEntity all = new ClientQuotaEntity(Collections.singletonMap(ClientQuotaEntity.CLIENT_ID, null));
        Double rate = value.equals("none") ? null : Double.valueOf(value);
        admin.alterClientQuotas(List.of(new ClientQuotaAlteration(all, List.of(new ClientQuotaAlteration.Op(name, rate)))))
            .all().get();
    }

    private static void move(Admin admin, List<String> topics) throws Exception {
        Map<TopicPartition, Optional<NewPartitionReassignment>> moves = new HashMap<>();
        for (TopicDescription topic : admin.describeTopics(topics).allTopicNames().get().values()) {
            for (TopicPartitionInfo partition : topic.partitions()) {
                List<Integer> replicas = new ArrayList<>();
                partition.replicas().forEach(node -> replicas.add(node.id()));
                Collections.rotate(replicas, 1);
                moves.put(new TopicPartition(topic.name(), partition.partition()),
                    Optional.of(new NewPartitionReassignment(replicas)));
            }
        }
        admin.alterPartitionReassignments(moves).all().get();
        Set<TopicPartition> places = moves.keySet();
        admin.electLeaders(ElectionType.PREFERRED, places).partitions().get();
    }
}
