import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;

/**
 * Writes through the JDBC driver (Debian: libpostgresql-jdbc-java), which the
 * class path has to name. With the system property "reconnect" it opens a
 * connection for each row, and names the new server first, so that what the
 * driver remembers of both hosts is as misleading as it gets. Otherwise it keeps
 * a connection until an error. Arguments and output: see other_test.go.
 */
public class JdbcClient {
    static volatile boolean ended;

    public static void main(String[] args) throws Exception {
        String name = args[0], url = args[2];
        boolean reconnect = Boolean.getBoolean("reconnect");
        if (reconnect) {
            String[] hosts = args[3].split(",");
            url = url.replace(args[3], hosts[1] + "," + hosts[0]);
        }
        Thread watch = new Thread(() -> {
            try {
                while (System.in.read() >= 0) { }
            } catch (java.io.IOException e) {
                // ended, too
            }
            ended = true;
        });
        watch.setDaemon(true);
        watch.start();
        Connection connection = null;
        for (long n = 1; !ended; n++) {
            try {
                if (connection == null) {
                    connection = DriverManager.getConnection(url);
                }
                try (PreparedStatement insert = connection.prepareStatement(
                        "insert into ledger (client, n) values (?, ?) returning port")) {
                    insert.setString(1, name);
                    insert.setLong(2, n);
                    try (ResultSet row = insert.executeQuery()) {
                        row.next();
                        System.out.println("ack " + n + " " + row.getInt(1));
                    }
                }
            } catch (SQLException e) {
                String what = connection == null ? "refused" : "25006".equals(e.getSQLState()) ? "refused" : "doubt";
                String why = connection == null ? "connecting: " + e.getMessage() : e.getSQLState();
                System.out.println(what + " " + n + " " + why.replace('\n', ' '));
                connection = close(connection);
            }
            if (reconnect) {
                connection = close(connection);
            }
            Thread.sleep(20);
        }
        close(connection);
    }

    static Connection close(Connection connection) {
        try {
            if (connection != null) {
                connection.close();
            }
        } catch (SQLException e) {
            // it is given up either way
        }
        return null;
    }
}
