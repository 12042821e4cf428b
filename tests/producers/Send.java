import java.util.Properties;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.StringSerializer;

/** Requests by Kafka's own client: SERVERS TOPIC CODEC COUNT URL. */
public final class Send {
    public static void main(String[] args) {
        Properties config = new Properties();
        config.put("bootstrap.servers", args[0]);
        config.put("compression.type", args[2]);
        config.put("linger.ms", "200");
        StringSerializer text = new StringSerializer();
        try (KafkaProducer<String, String> producer = new KafkaProducer<>(config, text, text)) {
            for (int number = 0; number < Integer.parseInt(args[3]); number++) {
                String value = "{\"id\": \"" + args[2] + "-" + number + "\", \"url\": \"" + args[4] + "/doc/" + number % 7 + "\"}";
                ProducerRecord<String, String> record = new ProducerRecord<>(args[1], Integer.toString(number), value);
                record.headers().add("own", "1".getBytes());
                producer.send(record, (where, exc) -> {
                    if (exc != null) {
                        exc.printStackTrace();
                        Runtime.getRuntime().halt(1);
                    }
                });
            }
        }
    }
}
