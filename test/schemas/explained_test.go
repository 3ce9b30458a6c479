package schemas

// The moves in which a difference is seen.
var (
	far  = pairs[:1] // 13 to 18
	near = pairs[1:] // 15 to 17
	both = pairs
)

// Reasons that hold for several objects.
const (
	unqualified = "from 16 on the columns of a query over one relation are written without its name"
	publicOwner = "from 15 on schema public belongs to pg_database_owner; where nobody gave it to a role of his own it is left so"
	parents     = "pg_dump writes the columns that a child has from its parents first, in their order"
	notNull     = "from 18 on NOT NULL has a name, and pg_dump writes it where table and column are too long to make it of"
	maintain    = "pg_dump 15, which moved it, writes ALL for all rights that there were before 17, which adds MAINTAIN"
	multirange  = "from 14 on a range has a multirange"
	parameterIn = "from 14 on the mode of a procedure's parameter is written where another has one"
)

// publicSchema explains schema public, for each case in which nobody owns it.
func publicSchema(cases ...string) []explanation {
	var out []explanation
	for _, of := range cases {
		out = append(out, explanation{
			of: of, pairs: far, title: "Name: SCHEMA public; Type: ACL; Schema: -; Owner: postgres",
			title2: "Name: SCHEMA public; Type: ACL; Schema: -; Owner: pg_database_owner", reason: publicOwner,
		}, explanation{
			of: of, pairs: far, title: "Name: public; Type: SCHEMA; Schema: -; Owner: postgres", title2: "-",
			differ: []string{"-- *not* creating schema, since initdb creates it\n\n\nALTER SCHEMA public OWNER TO postgres;"}, reason: publicOwner,
		})
	}
	return out
}

var explained = append(publicSchema("inherit", "names", "kinds"), []explanation{
	{
		of: "inherit", pairs: both, title: `Name: island; Type: TABLE; Schema: asset; Owner: inherit_owner`,
		differ: []string{
			`    id bigint DEFAULT nextval('asset.thing_id_seq'::regclass) NOT NULL,
    label text DEFAULT 'island'::text,
`, `    label text DEFAULT 'island'::text,
    id bigint DEFAULT nextval('asset.thing_id_seq'::regclass) NOT NULL,
`,
		},
		reason: parents,
	},
	{
		of: "inherit", pairs: both, title: `Name: ship; Type: TABLE; Schema: asset; Owner: inherit_owner`,
		differ: []string{
			`    tonnage real,
    made timestamp with time zone DEFAULT '2023-12-31 12:00:00+00'::timestamp with time zone,
    label text DEFAULT 'ship'::text,
    id bigint DEFAULT nextval('asset.thing_id_seq'::regclass),
    currency character(3) DEFAULT 'NOK'::bpchar,
    price numeric(12,2) DEFAULT 0,
`, `    id bigint DEFAULT nextval('asset.thing_id_seq'::regclass),
    label text DEFAULT 'ship'::text,
    made timestamp with time zone DEFAULT '2023-12-31 12:00:00+00'::timestamp with time zone,
    price numeric(12,2) DEFAULT 0,
    currency character(3) DEFAULT 'NOK'::bpchar,
    tonnage real,
`,
		},
		reason: parents,
	},
	{
		of: "rails", pairs: both, title: `Name: EXTENSION citext; Type: COMMENT; Schema: -; Owner: `,
		differ: []string{
			`'addresses of people who hold the shift key'`, `'data type for case-insensitive character strings'`,
		},
		reason: "CREATE EXTENSION sets the comment, which only its owner may change; it is not moved",
	},
	{of: "rails", pairs: both, title: `Name: account_totals; Type: MATERIALIZED VIEW; Schema: public; Owner: rails_app`, reread: true, reason: unqualified},
	{of: "rails", pairs: near, title: `Name: account_users; Type: VIEW; Schema: public; Owner: rails_app`, reread: true, reason: unqualified},
	{
		of: "rails", pairs: both, title: `Name: accounts; Type: TABLE; Schema: public; Owner: rails_app`,
		differ: []string{
			`ANY ((ARRAY['free'::character varying, 'team'::character varying, 'enterprise'::character varying])::text[])`, `ANY (ARRAY[('free'::character varying)::text, ('team'::character varying)::text, ('enterprise'::character varying)::text])`,
		},
		reason: "the cast of a list, once written and read again, stands at each of its members",
	},
	{
		of: "rails", pairs: both, title: `Name: users touch; Type: TRIGGER; Schema: public; Owner: rails_app`,
		differ: []string{
			`(old.email IS DISTINCT FROM new.email)`, `((old.email)::text IS DISTINCT FROM (new.email)::text)`,
		},
		reason: "a limit of pg_dump: IS DISTINCT FROM cannot name the schema of its operator, and what is restored sees pg_catalog only; see docs/differences.md",
	},
	{
		of: "rails", pairs: both, title: `Name: TABLE events_2021_01; Type: ACL; Schema: public; Owner: rails_app`,
		differ: []string{
			`GRANT SELECT,INSERT,REFERENCES,DELETE,TRIGGER,TRUNCATE,UPDATE ON TABLE`, `GRANT ALL ON TABLE`,
		},
		reason: maintain,
	},
	{
		of: "kinds", pairs: far, title: `Name: c_range; Type: TYPE; Schema: base; Owner: kinds_owner`,
		differ: []string{
			`    subtype = text,
`, `    subtype = text,
    multirange_type_name = base.c_multirange,
`,
		},
		reason: multirange,
	},
	{
		of: "kinds", pairs: far, title: `Name: float_range; Type: TYPE; Schema: base; Owner: kinds_owner`,
		differ: []string{
			`    subtype = double precision,
`, `    subtype = double precision,
    multirange_type_name = base.float_multirange,
`,
		},
		reason: multirange,
	},
	{
		of: "kinds", pairs: far, title: `Name: time_range; Type: TYPE; Schema: base; Owner: kinds_owner`,
		differ: []string{
			`    subtype = time without time zone,
`, `    subtype = time without time zone,
    multirange_type_name = base.time_multirange,
`,
		},
		reason: multirange,
	},
	{
		of: "kinds", pairs: far, title: `Name: noop(integer, text); Type: PROCEDURE; Schema: base; Owner: kinds_owner`,
		differ: []string{
			`INOUT n integer, text DEFAULT 'x'::text`, `INOUT n integer, IN text DEFAULT 'x'::text`,
			`INOUT n integer, text)`, `INOUT n integer, IN text)`,
		},
		reason: parameterIn,
	},
	{
		of: "kinds", pairs: far, title: `Name: PROCEDURE noop(INOUT n integer, text); Type: ACL; Schema: base; Owner: kinds_owner`,
		title2: `Name: PROCEDURE noop(INOUT n integer, IN text); Type: ACL; Schema: base; Owner: kinds_owner`,
		differ: []string{
			`base.noop(INOUT n integer, text) FROM PUBLIC`, `base.noop(INOUT n integer, IN text) FROM PUBLIC`,
			`base.noop(INOUT n integer, text) TO kinds_writer`, `base.noop(INOUT n integer, IN text) TO kinds_writer`,
			`base.noop(INOUT n integer, text) TO "kinds Reader"`, `base.noop(INOUT n integer, IN text) TO "kinds Reader"`,
		},
		reason: parameterIn,
	},
	{
		of: "kinds", pairs: far, title: `Name: SCHEMA public; Type: COMMENT; Schema: -; Owner: postgres`,
		title2: `Name: SCHEMA public; Type: COMMENT; Schema: -; Owner: pg_database_owner`,
		reason: publicOwner,
	},
	{of: "kinds", pairs: both, title: `Name: free; Type: VIEW; Schema: app; Owner: kinds_owner`, reread: true, reason: unqualified},
	{of: "kinds", pairs: both, title: `Name: cheap; Type: VIEW; Schema: app; Owner: kinds_owner`, reread: true, reason: unqualified},
	{of: "kinds", pairs: both, title: `Name: tree; Type: VIEW; Schema: app; Owner: kinds_owner`, reread: true, reason: unqualified},
	{of: "kinds", pairs: both, title: `Name: per_room; Type: MATERIALIZED VIEW; Schema: reporting; Owner: kinds_owner`, reread: true, reason: unqualified},
	{of: "kinds", pairs: near, title: `Name: invoked; Type: VIEW; Schema: app; Owner: kinds_owner`, reread: true, reason: unqualified},
	{of: "kinds", pairs: near, title: `Name: with_cycle; Type: VIEW; Schema: app; Owner: kinds_owner`, reread: true, reason: unqualified},
	{
		of: "kinds", pairs: both, title: `Name: TABLE booking; Type: ACL; Schema: app; Owner: kinds_owner`,
		differ: []string{
			`REVOKE SELECT,INSERT,REFERENCES,DELETE,TRIGGER,TRUNCATE,UPDATE ON TABLE app.booking FROM kinds_owner;`, `REVOKE ALL ON TABLE app.booking FROM kinds_owner;`,
		},
		reason: maintain,
	},
	{of: "names", pairs: both, title: `Name: view; Type: VIEW; Schema: public; Owner: postgres`, reread: true, reason: unqualified},
	{
		of: "names", pairs: far, title: `Name: a_table_with_a_name_that_is_nearly_as_long_as_a_name_may_be_12; Type: TABLE; Schema: one; Owner: postgres`,
		differ: []string{
			`a_column_with_a_name_that_is_nearly_as_long_as_a_name_may_be_12 integer NOT NULL`, `a_column_with_a_name_that_is_nearly_as_long_as_a_name_may_be_12 integer CONSTRAINT a_table_with_a_name_that_is_a_column_with_a_name_that__not_null NOT NULL`,
			`a_column_with_a_name_that_is_nearly_as_long_as_a_name_may_be_14 integer NOT NULL`, `a_column_with_a_name_that_is_nearly_as_long_as_a_name_may_be_14 integer CONSTRAINT a_table_with_a_name_that_i_a_column_with_a_name_that__not_null1 NOT NULL`,
			`a_column_with_a_name_that_is_nearly_as_long_as_a_name_may_be_15 bigint NOT NULL`, `a_column_with_a_name_that_is_nearly_as_long_as_a_name_may_be_15 bigint CONSTRAINT a_table_with_a_name_that_i_a_column_with_a_name_that__not_null2 NOT NULL`,
		},
		reason: notNull,
	},
	{
		of: "names", pairs: far, title: `Name: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; Type: TABLE; Schema: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; Owner: postgres`,
		differ: []string{
			`    id integer NOT NULL,`, `    id integer CONSTRAINT xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx_id_not_null NOT NULL,`,
		},
		reason: notNull,
	},
	{
		of: "names", pairs: far, title: `Name: яяяяяяяяяяяяяяяяяяяяяяяяяяяяяяя; Type: TABLE; Schema: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; Owner: postgres`,
		differ: []string{
			`    id integer NOT NULL,`, `    id integer CONSTRAINT "яяяяяяяяяяяяяяяяяяяяяяяяя_id_not_null" NOT NULL,`,
		},
		reason: notNull,
	},
	{
		of: "names", pairs: far, title: `Name: 長長長長長長長長長長長長長長長長長長長長長; Type: TABLE; Schema: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; Owner: postgres`,
		differ: []string{
			`    id integer NOT NULL,`, `    id integer CONSTRAINT "長長長長長長長長長長長長長長長長長_id_not_null" NOT NULL,`,
		},
		reason: notNull,
	},
	{
		of: "names", pairs: far, title: `Name: 😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀; Type: TABLE; Schema: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; Owner: пользователь`,
		differ: []string{
			`    id integer NOT NULL,`, `    id integer CONSTRAINT "😀😀😀😀😀😀😀😀😀😀😀😀_id_not_null" NOT NULL,`,
		},
		reason: notNull,
	},
}...)
