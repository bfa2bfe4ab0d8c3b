import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.io.File;
import java.util.concurrent.CompletableFuture;
import net.schmizz.sshj.SSHClient;
import net.schmizz.sshj.connection.channel.direct.DirectConnection;
import net.schmizz.sshj.connection.channel.direct.Parameters;
import net.schmizz.sshj.connection.channel.direct.Session;

/** A client made with sshj. See doc.go for its input and output. */
class Sshj {
  static SSHClient connect(String host, int port, String key, String known, DirectConnection via) throws Exception {
    SSHClient client = new SSHClient();
    client.loadKnownHosts(new File(known));
    client.setConnectTimeout(300_000);
    if (via == null) client.connect(host, port);
    else client.connectVia(via);
    client.authPublickey("bastion", key);
    return client;
  }

  static String status(SSHClient client) throws Exception {
    try (Session session = client.startSession()) {
      return new String(session.exec("status").getInputStream().readAllBytes(), "UTF-8");
    }
  }

  static String run(String[] a) throws Exception {
    try (SSHClient client = connect(a[1], Integer.parseInt(a[2]), a[3], a[4], null)) {
      if (a[0].equals("status")) return status(client);
      String host = a[5];
      int port = Integer.parseInt(a[6]);
      if (a[0].equals("forward")) {
        try (ServerSocket server = new ServerSocket(0, 5, InetAddress.getByName("127.0.0.1"))) {
          int local = server.getLocalPort();
          Parameters parameters = new Parameters("127.0.0.1", local, host, port);
          CompletableFuture.runAsync(() -> {
            try {
              client.newLocalPortForwarder(parameters, server).listen();
            } catch (Exception e) {
              // The server socket was closed, because the test of the forward is over.
            }
          });
          try (Socket s = new Socket("127.0.0.1", local)) {
            return Client.pipe(s.getInputStream(), s.getOutputStream(), s::shutdownOutput, a[7], null);
          }
        }
      }
      DirectConnection channel = client.newDirectConnection(host, port);
      if (a[0].equals("jump")) {
        try (SSHClient inner = connect(host, port, a[3], a[4], channel)) {
          return status(inner);
        }
      }
      boolean rekey = a[0].equals("rekey");
      Client.Action halfway = () -> client.getTransport().doKex(); // returns when the new keys are in use
      return Client.pipe(channel.getInputStream(), channel.getOutputStream(), channel.getOutputStream()::close, a[7], rekey ? halfway : null)
          + (rekey ? " rekeyed" : "");
    }
  }

  public static void main(String[] args) throws Exception {
    Client.serve(Sshj::run);
  }
}
