//! Where a source could be written otherwise. Pure.
//!
//! What is found is text and place, never a tree: the schema is the source itself with something put around a piece of
//! it.

use std::collections::BTreeMap;
use std::ops::Range;

use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{BinOp, Block, Expr, ImplItemFn, ItemFn, Lit, Pat, ReturnType, Stmt, TraitItemFn, Type, UnOp};

/// How the alternatives of a site stand in the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Form {
    /// At the beginning of a function: what it does instead of all the rest.
    Body,
    /// In front of a condition with `let`: it does not hold.
    Condition,
    /// Behind the pattern of an arm: it does not match.
    Arm,
    /// A statement that is left out.
    Statement,
    /// An expression with another value.
    Value,
}

/// One other way to write a site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Other {
    /// What stands there instead.
    pub text: String,
    /// The same, for people.
    pub change: String,
}

/// A place that can be written otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// Bytes of the source; empty where something is only put in.
    pub range: Range<usize>,
    /// See [`Form`].
    pub form: Form,
    /// The line, from 1.
    pub line: usize,
    /// The function, with its type.
    pub function: String,
    /// How it can be written otherwise.
    pub others: Vec<Other>,
}

/// Every site of a source, in the order in which they begin, who contains others before them.
///
/// # Errors
/// When the source is not Rust.
pub fn find(source: &str) -> syn::Result<Vec<Site>> {
    let file = syn::parse_file(source)?;
    let mut finder = Finder { source, sites: BTreeMap::new(), function: Vec::new() };
    finder.visit_file(&file);
    let mut sites: Vec<Site> = finder.sites.into_values().collect();
    sites.sort_by_key(|s| (s.range.start, std::cmp::Reverse(s.range.end), s.form));
    // What is only put in comes before what begins there.
    sites.sort_by_key(|s| (s.range.start, !s.range.is_empty()));
    Ok(sites)
}

/// Methods and what they could be mixed up with.
const PAIRS: &[(&str, &str)] = &[
    ("any", "all"),
    ("is_some_and", "is_none_or"),
    ("is_some", "is_none"),
    ("is_ok", "is_err"),
    ("min", "max"),
    ("saturating_add", "saturating_sub"),
    ("first", "last"),
    ("push_back", "push_front"),
    ("pop_front", "pop_back"),
];

/// Of those, what says the opposite of the other one, whatever it is asked.
const OPPOSITES: &[&str] = &["is_some", "is_none", "is_ok", "is_err"];

/// Methods whose closure says yes or no.
const ASKING: &[&str] = &[
    "all",
    "any",
    "filter",
    "find",
    "is_none_or",
    "is_some_and",
    "partition",
    "partition_point",
    "position",
    "retain",
    "skip_while",
    "take_while",
];

struct Finder<'s> {
    source: &'s str,
    sites: BTreeMap<(usize, usize, Form), Site>,
    function: Vec<String>,
}

/// The text of a source on one line, shortened.
fn short(text: &str) -> String {
    let mut out = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if out.chars().count() > 70 {
        out = out.chars().take(50).collect::<String>() + " … " + &tail(&out, 15);
    }
    out
}

fn tail(text: &str, most: usize) -> String {
    let skip = text.chars().count().saturating_sub(most);
    text.chars().skip(skip).collect()
}

/// Whether a condition has a `let` among those that must hold.
fn has_let(e: &Expr) -> bool {
    match e {
        Expr::Let(_) => true,
        Expr::Binary(b) if matches!(b.op, BinOp::And(_)) => has_let(&b.left) || has_let(&b.right),
        _ => false,
    }
}

/// Whether an item is only there in tests.
fn for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|a| {
        a.path().is_ident("test")
            || (a.path().is_ident("cfg") && a.parse_args::<syn::Path>().is_ok_and(|p| p.is_ident("test")))
    })
}

impl<'s> Finder<'s> {
    fn text(&self, node: &impl Spanned) -> &'s str {
        &self.source[node.span().byte_range()]
    }

    fn add(&mut self, range: Range<usize>, form: Form, line: usize, other: Other) {
        let function = self.function.join("::");
        let site = Site { range: range.clone(), form, line, function, others: Vec::new() };
        let site = self.sites.entry((range.start, range.end, form)).or_insert(site);
        if site.others.iter().all(|o| o.text != other.text) {
            site.others.push(other);
        }
    }

    /// An expression could have another value.
    fn value(&mut self, e: &impl Spanned, text: String) {
        let own = self.text(e);
        if own == text {
            return;
        }
        let change = format!("{} → {}", short(own), short(&text));
        self.add(e.span().byte_range(), Form::Value, e.span().start().line, Other { text, change });
    }

    /// A statement could be left out.
    fn without(&mut self, node: &impl Spanned) {
        let change = format!("without {}", short(self.text(node)));
        let other = Other { text: String::new(), change };
        self.add(node.span().byte_range(), Form::Statement, node.span().start().line, other);
    }

    /// A whole function could do nothing but answer.
    fn body(&mut self, returns: &ReturnType, block: &Block) {
        if block.stmts.is_empty() {
            return;
        }
        let at = block.brace_token.span.open().byte_range().end;
        let line = block.brace_token.span.open().start().line;
        for value in answers(returns) {
            if value.is_empty() && block.stmts.len() == 1 {
                // Its only statement is left out by itself.
                continue;
            }
            let change = format!("the whole function → {}", if value.is_empty() { "nothing" } else { value });
            let text = format!("return {value};");
            self.add(at..at, Form::Body, line, Other { text, change });
        }
    }

    fn function(&mut self, attributes: &[syn::Attribute], signature: &syn::Signature, block: &Block) {
        // The switch cannot be asked while compiling, and what is only shown to people is not looked at.
        if for_tests(attributes) || signature.constness.is_some() || signature.ident == "fmt" {
            return;
        }
        self.function.push(signature.ident.to_string());
        self.body(&signature.output, block);
        let unit = match &signature.output {
            ReturnType::Default => true,
            ReturnType::Type(_, t) => matches!(&**t, Type::Tuple(t) if t.elems.is_empty()),
        };
        self.block(block, unit);
        self.function.pop();
    }

    /// A block; `unit` where it has no value.
    fn block(&mut self, block: &Block, unit: bool) {
        let last = block.stmts.len().saturating_sub(1);
        for (place, statement) in block.stmts.iter().enumerate() {
            match statement {
                Stmt::Expr(e, semicolon) => {
                    let no_value = semicolon.is_some() || place < last || unit;
                    if no_value && may_be_left_out(e) {
                        self.without(statement);
                    }
                    self.expr(e, no_value);
                }
                Stmt::Local(local) => {
                    let Some(init) = &local.init else { continue };
                    if init.diverge.is_some()
                        && matches!(&local.pat, Pat::TupleStruct(p) if p.path.is_ident("Some"))
                    {
                        self.value(&init.expr, "None".to_owned());
                    }
                    self.expr(&init.expr, false);
                    if let Some((_, otherwise)) = &init.diverge {
                        self.expr(otherwise, false);
                    }
                }
                Stmt::Item(item) => self.visit_item(item),
                Stmt::Macro(_) => {}
            }
        }
    }

    /// An expression that says yes or no.
    fn condition(&mut self, e: &Expr) {
        if has_let(e) {
            let at = e.span().byte_range().start;
            let change = format!("{} → false", short(self.text(e)));
            self.add(at..at, Form::Condition, e.span().start().line, Other { text: String::new(), change });
            self.chain(e);
            return;
        }
        self.constant(e);
        self.asked(e);
    }

    /// What says yes or no could always say one of them. Where a narrower alternative differs in fewer cases, whatever
    /// breaks that breaks this one too, and it is not tried.
    fn constant(&mut self, e: &Expr) {
        let (yes, no) = match e {
            Expr::Lit(_) => (false, false),
            Expr::Paren(p) => return self.constant(&p.expr),
            // These are added with their parts.
            Expr::Binary(b) if matches!(b.op, BinOp::And(_) | BinOp::Or(_)) => (false, false),
            Expr::Binary(b) if matches!(b.op, BinOp::Lt(_) | BinOp::Gt(_)) => (false, true),
            Expr::Binary(b) if matches!(b.op, BinOp::Le(_) | BinOp::Ge(_)) => (true, false),
            _ => (true, true),
        };
        if yes {
            self.value(e, "true".to_owned());
        }
        if no {
            self.value(e, "false".to_owned());
        }
    }

    /// What is in an expression whose opposite need not be tried, since that it always says yes or no is.
    fn asked(&mut self, e: &Expr) {
        match e {
            Expr::Paren(p) => self.asked(&p.expr),
            Expr::Unary(u) if matches!(u.op, UnOp::Not(_)) => self.asked(&u.expr),
            Expr::Binary(b) => {
                if !matches!(b.op, BinOp::Eq(_) | BinOp::Ne(_)) {
                    self.binary(b);
                }
                self.parts(b);
            }
            Expr::MethodCall(call) => self.call(call, true),
            _ => self.expr(e, false),
        }
    }

    /// Both sides.
    fn parts(&mut self, b: &syn::ExprBinary) {
        for side in [&b.left, &b.right] {
            if matches!(b.op, BinOp::And(_) | BinOp::Or(_)) {
                self.asked(side)
            } else {
                self.expr(side, false)
            }
        }
    }

    /// The parts of a condition with `let`: each that has none could be missing.
    fn chain(&mut self, e: &Expr) {
        match e {
            Expr::Binary(b) if matches!(b.op, BinOp::And(_)) && has_let(e) => {
                self.chain(&b.left);
                self.chain(&b.right);
            }
            Expr::Let(l) => self.expr(&l.expr, false),
            _ => {
                self.value(e, "true".to_owned());
                self.asked(e);
            }
        }
    }

    /// An expression; `unit` where it has no value.
    fn expr(&mut self, e: &Expr, unit: bool) {
        match e {
            Expr::If(i) => {
                self.condition(&i.cond);
                self.block(&i.then_branch, unit || i.else_branch.is_none());
                if let Some((_, otherwise)) = &i.else_branch {
                    self.expr(otherwise, unit);
                }
            }
            Expr::While(w) => {
                self.condition(&w.cond);
                self.block(&w.body, true);
            }
            Expr::ForLoop(f) => {
                self.expr(&f.expr, false);
                self.block(&f.body, true);
            }
            Expr::Loop(l) => self.block(&l.body, true),
            Expr::Block(b) => self.block(&b.block, unit),
            Expr::Match(m) => self.match_(m, unit),
            // Only reached inside a chain that is no condition of `if`.
            Expr::Let(l) => self.expr(&l.expr, false),
            Expr::Repeat(r) => self.expr(&r.expr, false),
            Expr::MethodCall(call) => self.call(call, false),
            Expr::Binary(b) => {
                self.binary(b);
                self.parts(b);
            }
            Expr::Unary(u) => {
                if matches!(u.op, UnOp::Not(_)) {
                    self.value(e, self.text(&u.expr).to_owned());
                }
                self.expr(&u.expr, false);
            }
            Expr::Lit(l) => self.literal(e, &l.lit),
            Expr::Path(p) => {
                let name = p.path.get_ident().map(ToString::to_string).unwrap_or_default();
                if name.len() > 1
                    && name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
                {
                    self.value(e, format!("({name} * 2)"));
                }
            }
            Expr::Call(c) => {
                if matches!(&*c.func, Expr::Path(p) if p.path.is_ident("Some")) {
                    self.value(e, "None".to_owned());
                }
                visit::visit_expr_call(self, c);
            }
            Expr::Macro(m) if m.mac.path.is_ident("matches") => self.matches(e, &m.mac),
            Expr::Macro(_) => {}
            _ => visit::visit_expr(self, e),
        }
    }

    fn match_(&mut self, m: &syn::ExprMatch, unit: bool) {
        self.expr(&m.expr, false);
        let falls = m.arms.last().is_some_and(|a| matches!(a.pat, Pat::Wild(_)) && a.guard.is_none());
        for (place, arm) in m.arms.iter().enumerate() {
            match &arm.guard {
                Some((_, guard)) => self.condition(guard),
                None if falls && place + 1 < m.arms.len() => {
                    let at = arm.pat.span().byte_range().end;
                    let change = format!("without the arm {}", short(self.text(&arm.pat)));
                    let line = arm.pat.span().start().line;
                    self.add(at..at, Form::Arm, line, Other { text: String::new(), change });
                }
                None => {}
            }
            if unit && may_be_left_out(&arm.body) {
                self.without(&arm.body);
            }
            self.expr(&arm.body, unit);
        }
    }

    fn call(&mut self, call: &syn::ExprMethodCall, asked: bool) {
        let name = call.method.to_string();
        let (whole, method) = (call.span().byte_range(), call.method.span().byte_range());
        let other = PAIRS.iter().find_map(|(a, b)| match () {
            () if name == *a => Some(*b),
            () if name == *b => Some(*a),
            () => None,
        });
        let opposite = OPPOSITES.contains(&name.as_str());
        if let Some(other) = other.filter(|_| !(asked && opposite)) {
            let text = format!(
                "{}{other}{}",
                &self.source[whole.start..method.start],
                &self.source[method.end..whole.end]
            );
            let change = format!("{} → .{other}(…)", short(self.text(call)));
            self.add(whole, Form::Value, call.method.span().start().line, Other { text, change });
        } else if name == "is_empty" && !asked {
            self.value(call, format!("!{}", self.text(call)));
        }
        self.expr(&call.receiver, false);
        for argument in &call.args {
            match argument {
                Expr::Closure(c) if ASKING.contains(&name.as_str()) => self.condition(&c.body),
                _ => self.expr(argument, false),
            }
        }
    }

    fn binary(&mut self, b: &syn::ExprBinary) {
        let (left, right) = (self.text(&b.left), self.text(&b.right));
        let others: &[&str] = match b.op {
            BinOp::And(_) | BinOp::Or(_) => {
                if has_let(&Expr::Binary(b.clone())) {
                    return;
                }
                self.value(b, left.to_owned());
                self.value(b, right.to_owned());
                self.value(b, matches!(b.op, BinOp::Or(_)).to_string());
                return;
            }
            BinOp::Eq(_) => &["!="],
            BinOp::Ne(_) => &["=="],
            BinOp::Lt(_) => &["<=", "!="],
            BinOp::Le(_) => &["<", "=="],
            BinOp::Gt(_) => &[">=", "!="],
            BinOp::Ge(_) => &[">", "=="],
            BinOp::Add(_) => &["-"],
            BinOp::Sub(_) => &["+"],
            BinOp::Mul(_) => &["+", "/"],
            BinOp::Div(_) => &["*"],
            BinOp::Rem(_) => &["/"],
            BinOp::BitAnd(_) => &["|"],
            BinOp::BitOr(_) => &["&", "^"],
            BinOp::BitXor(_) => &["|"],
            BinOp::Shl(_) => &[">>"],
            BinOp::Shr(_) => &["<<"],
            _ => &[],
        };
        for other in others {
            self.value(b, format!("{left} {other} {right}"));
        }
    }

    fn literal(&mut self, e: &Expr, literal: &Lit) {
        match literal {
            Lit::Bool(b) => self.value(e, (!b.value).to_string()),
            Lit::Int(n) => {
                let Ok(value) = n.base10_parse::<u128>() else { return };
                self.value(e, format!("{}{}", value.saturating_add(1), n.suffix()));
                if value == 1 {
                    self.value(e, format!("{}{}", value - 1, n.suffix()));
                }
            }
            _ => {}
        }
    }

    /// `matches!`: each of several patterns could be missing, and so could the guard.
    fn matches(&mut self, e: &Expr, mac: &syn::Macro) {
        let parse = |input: syn::parse::ParseStream| {
            let on: Expr = input.parse()?;
            input.parse::<syn::Token![,]>()?;
            let pattern = Pat::parse_multi_with_leading_vert(input)?;
            let guard = if input.peek(syn::Token![if]) {
                input.parse::<syn::Token![if]>()?;
                Some(input.parse::<Expr>()?)
            } else {
                None
            };
            input.parse::<Option<syn::Token![,]>>()?;
            Ok((on, pattern, guard))
        };
        let Ok((on, pattern, guard)) = mac.parse_body_with(parse) else { return };
        let on_text = self.text(&on);
        let guard_text = guard.as_ref().map_or_else(String::new, |g| format!(" if {}", self.text(g)));
        if let Pat::Or(or) = &pattern {
            for (missing, case) in or.cases.iter().enumerate() {
                let kept = or.cases.iter().enumerate().filter(|(i, _)| *i != missing);
                let kept: Vec<&str> = kept.map(|(_, p)| self.text(p)).collect();
                let text = format!("matches!({on_text}, {}{guard_text})", kept.join(" | "));
                let change = format!("{}: without {}", short(self.text(e)), short(self.text(case)));
                self.add(e.span().byte_range(), Form::Value, e.span().start().line, Other { text, change });
            }
        }
        if guard.is_some() {
            self.value(e, format!("matches!({on_text}, {})", self.text(&pattern)));
        }
        self.expr(&on, false);
        if let Some(guard) = guard {
            self.expr(&guard, false);
        }
    }
}

/// What leaves no hole where it is left out.
fn may_be_left_out(e: &Expr) -> bool {
    match e {
        Expr::MethodCall(_)
        | Expr::Call(_)
        | Expr::Assign(_)
        | Expr::Return(_)
        | Expr::Break(_)
        | Expr::Continue(_)
        | Expr::Match(_)
        | Expr::ForLoop(_)
        | Expr::Try(_) => true,
        Expr::Binary(b) => matches!(
            b.op,
            BinOp::AddAssign(_)
                | BinOp::SubAssign(_)
                | BinOp::MulAssign(_)
                | BinOp::BitAndAssign(_)
                | BinOp::BitOrAssign(_)
                | BinOp::BitXorAssign(_)
        ),
        _ => false,
    }
}

/// What a function that returns this could answer whatever it is asked.
fn answers(returns: &ReturnType) -> &'static [&'static str] {
    let t = match returns {
        ReturnType::Default => return &[""],
        ReturnType::Type(_, t) => &**t,
    };
    match t {
        Type::Path(p) => {
            match p.path.segments.last().map(|s| s.ident.to_string()).unwrap_or_default().as_str() {
                "bool" => &["true", "false"],
                "Option" => &["None"],
                "Vec" | "VecDeque" | "BTreeMap" | "BTreeSet" | "String" => &["Default::default()"],
                "u8" | "u16" | "u32" | "u64" | "usize" => &["0"],
                _ => &[],
            }
        }
        Type::Reference(r) if matches!(&*r.elem, Type::Path(p) if p.path.is_ident("str")) => &["\"\""],
        _ => &[],
    }
}

impl<'ast> Visit<'ast> for Finder<'_> {
    fn visit_expr(&mut self, e: &'ast Expr) {
        self.expr(e, false);
    }

    fn visit_block(&mut self, block: &'ast Block) {
        self.block(block, false);
    }

    fn visit_item_fn(&mut self, item: &'ast ItemFn) {
        self.function(&item.attrs, &item.sig, &item.block);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast ImplItemFn) {
        self.function(&item.attrs, &item.sig, &item.block);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast TraitItemFn) {
        if let Some(block) = &item.default {
            self.function(&item.attrs, &item.sig, block);
        }
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        if for_tests(&item.attrs) {
            return;
        }
        self.function.push(short(self.text(&item.self_ty)));
        visit::visit_item_impl(self, item);
        self.function.pop();
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !for_tests(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    // What is no code that runs, or runs while compiling.
    fn visit_item_const(&mut self, _: &'ast syn::ItemConst) {}
    fn visit_impl_item_const(&mut self, _: &'ast syn::ImplItemConst) {}
    fn visit_item_static(&mut self, _: &'ast syn::ItemStatic) {}
    fn visit_item_enum(&mut self, _: &'ast syn::ItemEnum) {}
    fn visit_item_struct(&mut self, _: &'ast syn::ItemStruct) {}
    fn visit_attribute(&mut self, _: &'ast syn::Attribute) {}
    fn visit_pat(&mut self, _: &'ast Pat) {}
    fn visit_type(&mut self, _: &'ast Type) {}
    fn visit_macro(&mut self, _: &'ast syn::Macro) {}
    fn visit_generic_argument(&mut self, _: &'ast syn::GenericArgument) {}
}
