import java.io.ByteArrayOutputStream;
import java.net.Socket;
import java.nio.file.Path;
import java.time.Duration;
import java.util.EnumSet;
import org.apache.sshd.client.SshClient;
import org.apache.sshd.client.channel.ChannelDirectTcpip;
import org.apache.sshd.client.channel.ChannelExec;
import org.apache.sshd.client.channel.ClientChannelEvent;
import org.apache.sshd.client.config.hosts.HostConfigEntry;
import org.apache.sshd.client.config.hosts.HostConfigEntryResolver;
import org.apache.sshd.client.keyverifier.KnownHostsServerKeyVerifier;
import org.apache.sshd.client.keyverifier.RejectAllServerKeyVerifier;
import org.apache.sshd.client.session.ClientSession;
import org.apache.sshd.common.keyprovider.FileKeyPairProvider;
import org.apache.sshd.common.util.net.SshdSocketAddress;

/** A client made with Apache MINA SSHD. See doc.go for its input and output. */
class Mina {
  static final Duration WAIT = Duration.ofMinutes(5);

  static String status(ClientSession session) throws Exception {
    ByteArrayOutputStream output = new ByteArrayOutputStream();
    try (ChannelExec channel = session.createExecChannel("status")) {
      channel.setOut(output);
      channel.open().verify(WAIT);
      channel.waitFor(EnumSet.of(ClientChannelEvent.CLOSED), WAIT);
    }
    return output.toString("UTF-8");
  }

  static String run(SshClient client, String[] a) throws Exception {
    client.setServerKeyVerifier(new KnownHostsServerKeyVerifier(RejectAllServerKeyVerifier.INSTANCE, Path.of(a[4])));
    client.setKeyIdentityProvider(new FileKeyPairProvider(Path.of(a[3])));
    int bastionPort = Integer.parseInt(a[2]);
    if (a[0].equals("jump")) {
      HostConfigEntry target = new HostConfigEntry("", a[5], Integer.parseInt(a[6]), "bastion", "bastion@" + a[1] + ":" + a[2]);
      try (ClientSession session = client.connect(target).verify(WAIT).getClientSession()) {
        session.auth().verify(WAIT);
        return status(session);
      }
    }
    try (ClientSession session = client.connect("bastion", a[1], bastionPort).verify(WAIT).getClientSession()) {
      session.auth().verify(WAIT);
      if (a[0].equals("status")) return status(session);
      SshdSocketAddress target = new SshdSocketAddress(a[5], Integer.parseInt(a[6]));
      if (a[0].equals("forward")) {
        SshdSocketAddress local = session.startLocalPortForwarding(new SshdSocketAddress("127.0.0.1", 0), target);
        try (Socket s = new Socket("127.0.0.1", local.getPort())) {
          return Client.pipe(s.getInputStream(), s.getOutputStream(), s::shutdownOutput, a[7], null);
        }
      }
      try (ChannelDirectTcpip channel = session.createDirectTcpipChannel(new SshdSocketAddress("127.0.0.1", 0), target)) {
        channel.open().verify(WAIT);
        boolean rekey = a[0].equals("rekey");
        Client.Action halfway = () -> session.reExchangeKeys().verify(WAIT);
        return Client.pipe(channel.getInvertedOut(), channel.getInvertedIn(), channel.getInvertedIn()::close, a[7], rekey ? halfway : null)
            + (rekey ? " rekeyed" : "");
      }
    }
  }

  public static void main(String[] args) throws Exception {
    SshClient client = SshClient.setUpDefaultClient();
    client.setHostConfigEntryResolver(HostConfigEntryResolver.EMPTY);
    client.start();
    Client.serve(request -> run(client, request));
  }
}
